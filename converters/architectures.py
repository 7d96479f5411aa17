"""The ResNets that can be a backbone, under torchvision's names of their tensors.

MoCo v1 (arXiv:1911.05722, section 4.1 and Table 1) compares four encoders: R50, RX50-32x8d, and R50w2x and R50w4x, in
which every layer has two or four times the channels. torchvision's `wide_resnet50_2` is another network: it widens the
3x3 convolutions alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from converters.errors import UserError
from converters.settings import nearest


@dataclass(frozen=True)
class Architecture:
    """One ResNet."""

    name: str
    blocks: tuple[int, int, int, int]
    """Of the stages res2 to res5."""
    bottleneck: bool
    """Bottleneck blocks, or basic ones."""
    groups: int = 1
    """Of the 3x3 convolutions."""
    width_per_group: int = 64
    """Channels of a group of res2's 3x3 convolutions, before `widening`."""
    widening: int = 1
    """A factor on the channels of every layer, the stem too."""

    @property
    def depth(self) -> int:
        """The number in the name: stem and head count as one layer each."""
        return sum(self.blocks) * (3 if self.bottleneck else 2) + 2

    @property
    def stage_widths(self) -> tuple[int, int, int, int]:
        """Output channels of res2 to res5."""
        factor = self.stem_width * (4 if self.bottleneck else 1)
        return (factor, 2 * factor, 4 * factor, 8 * factor)

    @property
    def stem_width(self) -> int:
        """Output channels of the first convolution."""
        return 64 * self.widening

    @property
    def feature_dim(self) -> int:
        """D of the pooled res5 feature."""
        return self.stage_widths[-1]


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("resnet18", (2, 2, 2, 2), bottleneck=False),
        Architecture("resnet34", (3, 4, 6, 3), bottleneck=False),
        Architecture("resnet50", (3, 4, 6, 3), bottleneck=True),
        Architecture("resnet101", (3, 4, 23, 3), bottleneck=True),
        Architecture("resnet152", (3, 8, 36, 3), bottleneck=True),
        Architecture("resnext50_32x8d", (3, 4, 6, 3), bottleneck=True, groups=32, width_per_group=8),
        Architecture("resnext50_32x4d", (3, 4, 6, 3), bottleneck=True, groups=32, width_per_group=4),
        Architecture("resnext101_32x8d", (3, 4, 23, 3), bottleneck=True, groups=32, width_per_group=8),
        Architecture("resnext101_64x4d", (3, 4, 23, 3), bottleneck=True, groups=64, width_per_group=4),
        Architecture("wide_resnet50_2", (3, 4, 6, 3), bottleneck=True, width_per_group=128),
        Architecture("wide_resnet101_2", (3, 4, 23, 3), bottleneck=True, width_per_group=128),
        Architecture("resnet50w2x", (3, 4, 6, 3), bottleneck=True, widening=2),
        Architecture("resnet50w4x", (3, 4, 6, 3), bottleneck=True, widening=4),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture called `name`.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in ARCHITECTURES:
        raise UserError(expected="a known architecture", found=repr(name), cure=nearest(name, ARCHITECTURES))
    return ARCHITECTURES[name]


def build(name: str, num_classes: int = 1000) -> nn.Module:
    """A ResNet (torchvision's class) with random weights and `num_classes` outputs of `fc`."""
    return _model(architecture(name), num_classes)


def _model(arch: Architecture, num_classes: int) -> nn.Module:
    block = Bottleneck if arch.bottleneck else BasicBlock
    if arch.widening == 1:
        plain: nn.Module = ResNet(
            block, list(arch.blocks), num_classes, groups=arch.groups, width_per_group=arch.width_per_group
        )
        return plain
    # torchvision's class has no option for the width of all layers, so those of a small model are replaced.
    model: Any = ResNet(block, [1, 1, 1, 1], num_classes, groups=arch.groups, width_per_group=arch.width_per_group)
    width = model.inplanes = arch.stem_width
    model.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    for stage, blocks in enumerate(arch.blocks):
        layer = model._make_layer(block, width << stage, blocks, stride=2 if stage else 1)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Linear(arch.feature_dim, num_classes)
    for module in model.modules():  # as torchvision's own constructor does; a BatchNorm2d starts at 1 and 0 anyway
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    widened: nn.Module = model
    return widened


@cache
def _shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = _model(arch, num_classes=1)
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if not key.startswith("fc.")}


def expected_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the backbone (no head), in torchvision's names: 318 for ResNet-50."""
    return dict(_shapes(architecture(name)))


def infer(tensors: Mapping[str, object], where: Path) -> str:
    """The ResNet with exactly these blocks; of several, the one that has most of these tensors' shapes.

    Raises:
        UserError: if there is none.
    """
    blocks = [len({name.split(".")[1] for name in tensors if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in tensors
    candidates = [
        candidate
        for candidate in ARCHITECTURES.values()
        if list(candidate.blocks) == blocks and candidate.bottleneck == bottleneck
    ]
    if not candidates:
        absent = [f"layer{stage}" for stage, count in enumerate(blocks, 1) if not count]
        if absent:
            raise UserError(expected="a ResNet's stages layer1 to layer4", found=f"no {', '.join(absent)}", where=where)
        raise UserError(
            expected="the blocks of a ResNet-18, 34, 50, 101 or 152, of a ResNeXt or a Wide ResNet",
            found=f"{blocks} {'bottleneck' if bottleneck else 'basic'} blocks",
            where=where,
        )

    def agreeing(candidate: Architecture) -> int:
        shapes = _shapes(candidate)
        return sum(tuple(getattr(value, "shape", ())) == shapes.get(name) for name, value in tensors.items())

    return max(candidates, key=agreeing).name
