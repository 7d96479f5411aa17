"""Networks that are no ResNet of ours, known by what they are called."""

from __future__ import annotations

import re
from pathlib import Path

from converters.errors import UserError
from converters.families.content import Content
from converters.families.matching import Candidate

# timm's and OpenMMLab's (ResNetV1c) names, and those of detectron2's DeepLab stem.
_DEEP_STEM = re.compile(r"(.*\.)?(conv1\.0\.weight|stem\.0\.weight|stem\.conv1_1\.weight)")
_VIT = re.compile(r"(.*\.)?(patch_embed\.(proj|projection)\.weight|cls_token|pos_embed|class_token)")


def network(content: Content) -> str | None:
    """What the names say that the file holds instead; None where they say nothing."""
    for group in content.groups.values():
        for name, tensor in group.tensors.items():
            if _DEEP_STEM.fullmatch(name) and tensor.dim() == 4 and tensor.shape[1] == 3:
                return f"a deep stem of three 3x3 convolutions (ResNet-C or -D, ResNetV1c), at {name!r}"
            if _VIT.fullmatch(name):
                return f"a vision transformer, at {name!r}"
    return None


def stem(candidate: Candidate) -> str | None:
    """What the tensors under a ResNet's names say that it is; None for one of ours."""
    first = candidate.tensors.get("conv1.weight")
    if first is not None and first.dim() == 4 and tuple(first.shape[2:]) == (3, 3):
        return "a CIFAR stem (a 3x3 first convolution)"
    if first is not None and first.dim() == 4 and first.shape[1] != 3:
        return f"a first convolution on {first.shape[1]} channels"
    for name, tensor in candidate.tensors.items():
        if name.endswith("downsample.1.weight") and tensor.dim() == 4:
            return "shortcuts with average pooling (ResNet-D)"
    return None


def of(found: str, where: Path) -> UserError:
    """The error that names it."""
    return UserError(
        expected="a ResNet with the plain 7x7 stem",
        found=found,
        where=where,
        cure="this network is not supported",
    )
