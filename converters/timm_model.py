"""A real timm model, built from a written configuration and filled through timm's own loader."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import PIL.Image
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from converters import keymap, no_init
from converters.backbone import Backbone
from converters.metadata import Preprocess
from converters.parity import LAYERS, LiveModel, identical, norm_of, quiet, staged
from converters.receipt import live_tensors, module_receipt


def build(fragment: Path, weights: Path) -> Any:
    """The model that the configuration describes, in eval mode on the CPU with the weights in, without a classifier."""
    with tempfile.TemporaryDirectory() as folder:
        # The names under which timm looks for the two in a folder.
        for name, path in (("config.json", fragment), ("model.safetensors", weights)):
            Path(folder, name).symlink_to(path.absolute())
        with quiet(), no_init.zeros_for_draws():
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    return model.eval()


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What timm makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    model = build(fragment, weights)
    data: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]  # timm types a part only
    # The picture has the size that the network sees already.
    transform = create_transform(**data | {"crop_pct": 1.0})
    # timm opens images as RGB and scales them to 0..1.
    live = Preprocess(channel_order="RGB", mean=data["mean"], std=data["std"], value_range=(0.0, 1.0))
    receipt = module_receipt(model, backbone.metadata, live).model_copy(update={"framework": "timm"})
    with PIL.Image.open(picture) as image:
        x: torch.Tensor = transform(image.convert("RGB"))
    return LiveModel(
        stages=staged(model, x[None], ("conv1", "bn1", "act1", "maxpool"), LAYERS),
        receipt=receipt,
        norm=norm_of(model, "bn1"),
        loaded=identical(backbone, live_tensors(model, keymap.torchvision(backbone.arch))),
    )
