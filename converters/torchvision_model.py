"""A real torchvision model, built by running a written fragment, which loads the weights itself."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torchvision.transforms import v2

from converters import keymap, no_init
from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.metadata import Preprocess
from converters.parity import LAYERS, LiveModel, identical, norm_of, staged
from converters.receipt import live_tensors, module_receipt


def build(fragment: Path, weights: Path) -> tuple[Any, Any]:
    """The fragment's model, in eval mode on the CPU with the weights in, and its transform. The fragment is run."""
    made = runpy.run_path(str(fragment))
    with no_init.zeros_for_draws():
        model = made["model"](weights)
    return model.eval(), made["transform"]


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What torchvision makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    model, transform = build(fragment, weights)
    receipt = module_receipt(model, backbone.metadata, _applied(transform))
    with PIL.Image.open(picture) as image:
        x: torch.Tensor = transform(image.convert("RGB"))
    return LiveModel(
        stages=staged(model, x[None], ("conv1", "bn1", "relu", "maxpool"), LAYERS),
        receipt=receipt,
        norm=norm_of(model, "bn1"),
        loaded=identical(backbone, live_tensors(model, keymap.torchvision(backbone.arch))),
    )


def _applied(transform: Any) -> Preprocess:
    """What a fragment's transform does to an image, read back from its live steps.

    Raises:
        CheckFailed: if it ends in anything but a normalisation.
    """
    normalise = transform.transforms[-1]
    if not isinstance(normalise, v2.Normalize):
        raise CheckFailed(f"receipt: expected a transform that ends in a normalisation, found {normalise}")
    # One pixel of which each channel has its own value, before the mean and std: who comes first was red or blue.
    pixel = PIL.Image.new("RGB", (1, 1), (255, 0, 0))
    values = transform(pixel).flatten() * torch.tensor(normalise.std) + torch.tensor(normalise.mean)
    order = "RGB" if values[0] > values[2] else "BGR"
    return Preprocess(channel_order=order, mean=normalise.mean, std=normalise.std)
