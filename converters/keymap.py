"""Names of the same tensors in torchvision, detectron2 and mmsegmentation: total, injective, invertible tables.

A table is made for one architecture and holds every tensor of its backbone, so a name outside it is an error and never
a guess. The rules behind the detectron2 names are those of the reference converter (facebookresearch/moco@7397dfe,
detection/convert-pretrain-to-detectron2.py), without its `stem.fc.*`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from converters import architectures

V = TypeVar("V")

Stage = Literal["stem", "res2", "res3", "res4", "res5"]
STAGES: tuple[Stage, ...] = ("stem", "res2", "res3", "res4", "res5")

Place = Literal["C4", "FPN", "backbone", "bare"]
"""Where a live model keeps the ResNet: a C4 detector, below an FPN, as `backbone`, or being the model itself."""


@dataclass(frozen=True)
class KeyMap:
    """One table: torchvision's name of each tensor -> the target's name.

    Raises:
        ValueError: on construction, if two tensors would get one name.
    """

    target: str
    names: Mapping[str, str]
    region: str
    """A regular expression: how names of a live model's ResNet begin, of tensors in the table and of any others."""

    def __post_init__(self) -> None:
        if len(set(self.names.values())) != len(self.names):
            raise ValueError(f"the key map to {self.target} gives two tensors one name")

    @cached_property
    def inverse(self) -> dict[str, str]:
        """The target's name -> torchvision's."""
        return {theirs: ours for ours, theirs in self.names.items()}

    def rename(self, tensors: Mapping[str, V]) -> dict[str, V]:
        """From torchvision's names to the target's, in the same order.

        Raises:
            KeyError: for a name that is not in the table.
        """
        return {self.names[name]: value for name, value in tensors.items()}

    def restore(self, tensors: Mapping[str, V]) -> dict[str, V]:
        """From the target's names to torchvision's.

        Raises:
            KeyError: for a name that is not in the table.
        """
        return {self.inverse[name]: value for name, value in tensors.items()}


def stage_of(name: str) -> Stage:
    """The stage in which a tensor with this torchvision name lies."""
    top = name.split(".", 1)[0]
    return STAGES[int(top.removeprefix("layer"))] if top.startswith("layer") else "stem"


_PLAIN_REGION = r"(conv1|bn1|layer\d+)\."


def torchvision(arch: str) -> KeyMap:
    """The identity."""
    return _table("torchvision", arch, _PLAIN_REGION, lambda name: name)


def mmseg(arch: str, place: Place = "bare") -> KeyMap:
    """The plain `ResNet` of mmsegmentation keeps torchvision's names; a segmentor holds it as `backbone`."""
    prefix = {"bare": "", "backbone": "backbone."}[place]
    return _table("mmseg", arch, re.escape(prefix) or _PLAIN_REGION, lambda name: prefix + name)


def detectron2(arch: str, place: Place = "bare") -> KeyMap:
    """detectron2's names: `bare` (`stem.*`, `res2.*`) in files, the other places in live models."""
    prefix = {"bare": "", "backbone": "backbone.", "FPN": "backbone.bottom_up.", "C4": "backbone."}[place]
    head = "roi_heads." if place == "C4" else prefix

    def name_in_place(name: str) -> str:
        return (head if stage_of(name) == "res5" else prefix) + detectron2_name(name)

    # The norm behind res5 is the detector's (MoCo v1, section 4.2), not the backbone's.
    region = rf"(?!roi_heads\.res5\.norm\.)({re.escape(prefix)}|{re.escape(head)})(stem|res\d+)\."
    return _table("detectron2", arch, region, name_in_place)


_FIRST_CONVOLUTION: dict[Place, str] = {
    "FPN": "backbone.bottom_up.stem.conv1.weight",
    "backbone": "backbone.stem.conv1.weight",
    "bare": "stem.conv1.weight",
}


def detectron2_place(names: Mapping[str, object]) -> Place | None:
    """Where a live detectron2 model keeps its ResNet, told from the names of its tensors; None where there is none."""
    for place, first in _FIRST_CONVOLUTION.items():
        if first in names:
            in_head = place == "backbone" and "roi_heads.res5.0.conv1.weight" in names
            return "C4" if in_head else place
    return None


_SHORTCUT = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}


def detectron2_name(name: str) -> str:
    """The name in a file: `layer1.0.bn3.weight` -> `res2.0.conv3.norm.weight`."""
    module, tensor = name.rsplit(".", 1)
    stage = stage_of(name)
    path: list[str] = [stage]
    if stage != "stem":
        _, block, module = module.split(".", 2)
        path.append(block)
    if module.startswith("bn"):
        module = f"conv{module.removeprefix('bn')}.norm"
    return ".".join([*path, _SHORTCUT.get(module, module), tensor])


def _table(target: str, arch: str, region: str, rule: Callable[[str], str]) -> KeyMap:
    return KeyMap(target, {name: rule(name) for name in architectures.expected_shapes(arch)}, region)
