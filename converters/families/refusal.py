"""Networks that are no ResNet of ours, known by what they are called."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from converters.architectures import ARCHITECTURES
from converters.census.limits import clip
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
                return f"a deep stem of three 3x3 convolutions (ResNet-C or -D, ResNetV1c), at {clip(name)}"
            if _VIT.fullmatch(name):
                return f"a vision transformer, at {clip(name)}"
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


def affine_only(candidate: Candidate) -> bool:
    """Whether a bottleneck ResNet's norms have the statistics of none: mean 0, and variance 1 or 1 - 1e-5.

    So does Caffe2's ResNet under torchvision's names (mmcv's model zoo, as detectron2/resnet50_caffe), which expects
    BGR and has its stride in the 1x1; and so does torchvision's before training.
    """
    if "layer1.0.conv3.weight" not in candidate.tensors:
        return False
    statistics = 0
    for name, tensor in candidate.tensors.items():
        usual = {"running_mean": 0.0, "running_var": 1.0}.get(name.rsplit(".", 1)[-1])
        if usual is None:
            continue
        statistics += 1
        if not bool(torch.all((tensor.detach().double() - usual).abs() <= _NO_STATISTICS)):
            return False
    return statistics > 0


_NO_STATISTICS = 1.1e-5
"""1 - 1e-5, the variance with which eps drops out, in float32."""

# facebookresearch/swav@06b1b7c, src/resnet50.py, names the widened ones so; the others leave the width open.
_SYNONYMS = {
    "resnet": frozenset(ARCHITECTURES),
    "resnet50w2": frozenset({"resnet50w2x"}),
    "resnet50w4": frozenset({"resnet50w4x"}),
    "resnext50": frozenset({"resnext50_32x4d", "resnext50_32x8d"}),
    "resnext101": frozenset({"resnext101_32x8d", "resnext101_64x4d"}),
}


def check_arch(content: Content, arch: str) -> None:
    """Hold the architecture that was inferred against a file's own `arch`, where that names a ResNet.

    Raises:
        UserError: if it names another: a variant can have the same names and shapes.
    """
    said = content.top.get("arch")
    if not isinstance(said, str):
        return
    name = said.lower().replace("-", "_").split(".", 1)[0]  # timm's names end with a tag behind a dot
    if (
        not name.startswith(("res", "wide_res"))
        or name.replace("_", "") == arch.replace("_", "")
        or arch in _SYNONYMS.get(name, ())
    ):
        return
    raise UserError(
        expected=f"the file's arch to be {arch}, which its names and shapes tell",
        found=clip(said),
        where=content.path,
        cure="where it is the same network, declare its family with --family",
    )
