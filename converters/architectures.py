"""The ResNets that can be a backbone, under torchvision's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torchvision
from torch import nn

from converters.errors import UserError
from converters.settings import nearest


@dataclass(frozen=True)
class Architecture:
    """One ResNet: `blocks` a stage (res2 to res5), bottleneck or basic."""

    name: str
    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def depth(self) -> int:
        """The number in the name: stem and head count as one layer each."""
        return sum(self.blocks) * (3 if self.bottleneck else 2) + 2

    @property
    def stage_widths(self) -> tuple[int, int, int, int]:
        """Output channels of res2 to res5."""
        factor = 4 if self.bottleneck else 1
        return (64 * factor, 128 * factor, 256 * factor, 512 * factor)

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
    """A torchvision ResNet with random weights and `num_classes` outputs of `fc`."""
    constructor: Callable[..., nn.Module] = getattr(torchvision.models, architecture(name).name)
    return constructor(num_classes=num_classes)


@cache
def _shapes(name: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    with torch.device("meta"):
        model = build(name)
    return tuple((key, tuple(value.shape)) for key, value in model.state_dict().items() if not key.startswith("fc."))


def expected_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the backbone (no head), in torchvision's names: 318 for ResNet-50."""
    return dict(_shapes(name))


def infer(tensors: Mapping[str, object], where: Path) -> str:
    """The ResNet with exactly these blocks and names.

    Raises:
        UserError: if there is none.
    """
    blocks = [len({name.split(".")[1] for name in tensors if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in tensors
    for candidate in ARCHITECTURES.values():
        if list(candidate.blocks) == blocks and candidate.bottleneck == bottleneck:
            return candidate.name
    raise UserError(
        expected=f"the blocks of one of {', '.join(map(_described, ARCHITECTURES.values()))}",
        found=f"{blocks} {'bottleneck' if bottleneck else 'basic'} blocks",
        where=where,
    )


def _described(arch: Architecture) -> str:
    return f"{arch.name} {list(arch.blocks)}"
