"""What the configuration fragments of both frameworks have in common."""

from __future__ import annotations

from converters.metadata import Preprocess


def on_byte_scale(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Mean and std for images with values from 0 to 255, as both frameworks want them."""
    low, high = preprocess.value_range
    scale = 255.0 / (high - low)
    mean = [round((value - low) * scale, 6) for value in preprocess.mean]
    return mean, [round(value * scale, 6) for value in preprocess.std]
