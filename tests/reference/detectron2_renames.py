"""The renames of facebookresearch/moco@7397dfe, detection/convert-pretrain-to-detectron2.py, restated as ordered text
replacements, to compare the key map's table with."""

from __future__ import annotations


def renamed(name: str) -> str:
    """The detectron2 name of a torchvision name."""
    if "layer" not in name:
        name = "stem." + name
    for layer in (1, 2, 3, 4):
        name = name.replace(f"layer{layer}", f"res{layer + 1}")
    for norm in (1, 2, 3):
        name = name.replace(f"bn{norm}", f"conv{norm}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
