"""Write a backbone for timm: a backbone file, which timm loads as it is, and the configuration that it needs.

timm's ResNet has torchvision's names, and timm reads safetensors without minding the header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converters.architectures import ARCHITECTURES, Architecture
from converters.errors import UserError
from converters.fragment import on_unit_scale
from converters.metadata import BackboneMetadata

SUFFIX = ".safetensors"

_BUILDERS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""timm's names of its ResNets with a plain stem."""


def resnet(arch: Architecture) -> tuple[str, dict[str, int]]:
    """The name of the architecture in timm, and the arguments that it takes beside it.

    Raises:
        UserError: for a ResNet that timm's class cannot be.
    """
    if arch.widening != 1:
        raise _impossible(f"{arch.name}: the first convolution of its ResNet has 64 channels")
    if arch.name in _BUILDERS:
        return arch.name, {}
    return f"resnet{arch.depth}", {"cardinality": arch.groups, "base_width": arch.width_per_group}


def _impossible(found: str) -> UserError:
    return UserError(
        expected="a backbone that timm can build and feed",
        found=found,
        where="--to timm",
        cure="use --to torchvision, detectron2 or one of OpenMMLab's",
    )


def settings(metadata: BackboneMetadata) -> dict[str, Any]:
    """The content of timm's `config.json`.

    Raises:
        UserError: for an architecture, a channel order or a stride position that timm does not know.
    """
    name, arguments = resnet(ARCHITECTURES[metadata.arch])
    if metadata.preprocess.channel_order == "BGR":
        raise _impossible("weights that want BGR, and timm loads images as RGB")
    if metadata.stride_in_1x1:
        raise _impossible("bottlenecks with their stride in the first 1x1 convolution, and timm's have it in the 3x3")
    mean, std = on_unit_scale(metadata.preprocess)
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": ARCHITECTURES[metadata.arch].feature_dim,
        "global_pool": "avg",
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, 224, 224],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": mean,
            "std": std,
            "num_classes": 0,
            "pool_size": [7, 7],
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }


def write_fragment(metadata: BackboneMetadata, weights: str, path: Path) -> None:  # noqa: ARG001 - timm's has no name
    """The settings as JSON; errors as for `settings`."""
    path.write_text(json.dumps(settings(metadata), indent=2) + "\n", encoding="utf-8")
