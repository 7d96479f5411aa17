"""Write a backbone for detectron2: a `.pkl` of weights and the YAML fragment that they need.

The weights keep their values: the first convolution stays RGB, and the configuration says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from converters import arrays, keymap, untrusted
from converters.architectures import ARCHITECTURES, Architecture
from converters.backbone import Backbone
from converters.errors import UserError
from converters.fragment import on_byte_scale
from converters.metadata import BackboneMetadata, parse_header

Head = Literal["C4", "FPN"]

SUFFIX = ".pkl"
"""detectron2 reads `__author__` and `matching_heuristics` from this suffix alone."""

AUTHOR = "moco-transfer"
"""`Caffe2` would make detectron2 rename the tensors once more."""

_HEADER = "moco_transfer"

_LINES = """\
# {file} for detectron2: the settings that the weights need. Merge it into your configuration:
#   cfg = get_cfg(); cfg.merge_from_file("{file}"); cfg.MODEL.WEIGHTS = "…/{weights}"
# MODEL.WEIGHTS must end in .pkl, or detectron2 matches no name and trains from random weights.
# One GPU, or a CPU: put "BN" for each "SyncBN"; with fewer than about 8 images a GPU its statistics are poor.
# FREEZE_AT 0: at 2, the default, stem and res2 stay frozen and their norm becomes FrozenBN whatever NORM says.
"""
_C4_LINES = """\
# The paper (MoCo v1, section 4.2) adds a norm after res5: ROI_HEADS.NAME "Res5ROIHeadsExtraNorm", which detectron2
# knows after `import evaluators.detection.heads`.
"""


def default_head(arch: str) -> Head:
    """C4 for bottleneck ResNets, FPN for the others: detectron2 builds res5 of C4 from bottlenecks only."""
    return "C4" if ARCHITECTURES[arch].bottleneck else "FPN"


def resnet(arch: Architecture) -> dict[str, int]:
    """The keys below `MODEL.RESNETS` that tell detectron2 which ResNet to build."""
    return {
        "DEPTH": arch.depth,
        "NUM_GROUPS": arch.groups,
        "WIDTH_PER_GROUP": arch.width_per_group * arch.widening,
        "STEM_OUT_CHANNELS": arch.stem_width,
        "RES2_OUT_CHANNELS": arch.stage_widths[0],
    }


def settings(metadata: BackboneMetadata, weights: str, head: Head | None = None) -> dict[str, Any]:
    """The settings as nested keys of detectron2's configuration.

    Args:
        metadata: the backbone's header.
        weights: what `MODEL.WEIGHTS` becomes.
        head: the detector; see `default_head`.

    Raises:
        UserError: for a C4 head on a ResNet of basic blocks.
    """
    arch = ARCHITECTURES[metadata.arch]
    head = head or default_head(metadata.arch)
    if head == "C4" and not arch.bottleneck:
        raise UserError(
            expected="a bottleneck ResNet for the head c4", found=metadata.arch, where="--head", cure="use --head fpn"
        )
    mean, std = on_byte_scale(metadata.preprocess)
    resnets: dict[str, Any] = {**resnet(arch), "NORM": "SyncBN", "STRIDE_IN_1X1": metadata.stride_in_1x1}
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "WEIGHTS": weights,
        "PIXEL_MEAN": mean,
        "PIXEL_STD": std,
        "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 0},
        "RESNETS": resnets,
    }
    if head == "C4":
        resnets["OUT_FEATURES"] = ["res4"]
    else:
        levels = ["res2", "res3", "res4", "res5"]
        resnets["OUT_FEATURES"] = list(levels)
        model["BACKBONE"]["NAME"] = "build_resnet_fpn_backbone"
        model["FPN"] = {"IN_FEATURES": levels, "NORM": "SyncBN"}
        model["ANCHOR_GENERATOR"] = {"SIZES": [[32], [64], [128], [256], [512]]}
        model["RPN"] = {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]}
        model["ROI_HEADS"] = {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]}
        model["ROI_BOX_HEAD"] = {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7}
    return {
        "VERSION": 2,
        "INPUT": {"FORMAT": metadata.preprocess.channel_order},
        "MODEL": model,
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
    }


def write_fragment(metadata: BackboneMetadata, weights: str, path: Path, head: Head | None = None) -> None:
    """The settings as YAML, with the traps as comments."""
    content = settings(metadata, weights, head)
    lines = _LINES.format(file=path.name, weights=weights)
    if "FPN" not in content["MODEL"]:
        lines += _C4_LINES
    path.write_text(lines + yaml.safe_dump(content, sort_keys=False, default_flow_style=None), encoding="utf-8")


def write_weights(backbone: Backbone, path: Path) -> None:
    """The weights under detectron2's names, for `DetectionCheckpointer`."""
    model = keymap.detectron2(backbone.arch).rename(backbone.tensors)
    content = {
        "model": {name: value.detach().cpu().numpy() for name, value in model.items()},
        "__author__": AUTHOR,
        "matching_heuristics": True,
        _HEADER: backbone.metadata.to_header(),
    }
    arrays.write(content, path)


def header(content: object) -> dict[Any, Any] | None:
    """The backbone's header in the content of a file that `write_weights` made; None in any other."""
    found = content.get(_HEADER) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None


def read_weights(path: Path) -> Backbone:
    """The backbone back from a file that `write_weights` made.

    Raises:
        UserError: if it is no such file, or its tensors are not those that its header names.
    """
    return of_content(untrusted.load(path).content, path)


def of_content(content: object, path: Path) -> Backbone:
    """The same from the loaded content of the file at `path`; errors as for `read_weights`."""
    found = header(content)
    if found is None or not isinstance(content, dict):
        raise UserError(expected="a .pkl written by moco-transfer", found="another pickle", where=path)
    metadata = parse_header(found, path)
    return Backbone.of(metadata, content.get("model"), path, keymap.detectron2(metadata.arch).inverse)
