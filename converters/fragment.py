"""What the configuration fragments of the frameworks have in common."""

from __future__ import annotations

from converters.metadata import Preprocess


def on_byte_scale(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Mean and std for images with values from 0 to 255, as detectron2 and OpenMMLab want them."""
    return _on_scale(preprocess, 255.0)


def on_unit_scale(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Mean and std for images with values from 0 to 1, as torchvision and timm want them."""
    return _on_scale(preprocess, 1.0)


def _on_scale(preprocess: Preprocess, top: float) -> tuple[list[float], list[float]]:
    low, high = preprocess.value_range
    scale = top / (high - low)
    # Rounded as far below float32's own steps, so that 0.485 * 255 is written as 123.675.
    mean = [round((value - low) * scale, 6 if top > 1 else 10) for value in preprocess.mean]
    return mean, [round(value * scale, 6 if top > 1 else 10) for value in preprocess.std]
