"""The rules for the network of an OpenMMLab configuration: the ResNet, and what stands around it."""

from __future__ import annotations

from typing import Any

from converters import keymap, to_openmmlab
from converters.architectures import ARCHITECTURES, Architecture
from converters.errors import UserError
from converters.lint.finding import Findings, Text
from converters.lint.finding import Path as KeyPath
from converters.lint.openmmlab_plain import check_plain
from converters.lint.openmmlab_view import BACKBONE, SHARED_HEAD, OpenMMLabConfig, at, kind, listed, mapping
from converters.lint.values import number
from converters.metadata import BackboneMetadata

_DEEP_STEMS = ("ResNetV1c", "ResNetV1d")
_DEFAULTS = {"groups": 1, "base_width": 4, "width_per_group": 4, "stem_channels": 64, "base_channels": 64}
"""Of the ResNet and ResNeXt classes of mmseg 1.x, mmdet 3.x and mmpretrain 1.x."""


def check(findings: Findings, cfg: OpenMMLabConfig, metadata: BackboneMetadata) -> None:
    """Whether the ResNet is the backbone's, plain, trained, and what the parts behind it expect."""
    arch = ARCHITECTURES[metadata.arch]
    backbone = mapping(cfg.values, BACKBONE)
    try:
        right = to_openmmlab.resnet(arch, cfg.framework)
    except UserError as error:
        findings.add(
            "arch",
            (*BACKBONE, "type"),
            kind(backbone),
            Text(f"a class for {arch.name}"),
            why=error.found,
            fix=error.cure or "use detectron2",
        )
        return
    _check_type(findings, backbone, right["type"])
    for key, expected in right.items():
        if key != "type" and backbone.get(key, _DEFAULTS.get(key)) != expected:
            path = (*BACKBONE, key)
            findings.add("arch", path, backbone.get(key, Text("not set")), expected, changes={path: expected})
    for key, plain in _DEFAULTS.items():
        if key in backbone and key not in right and backbone[key] != plain:
            path = (*BACKBONE, key)
            findings.add("arch", path, backbone[key], plain, changes={path: plain})
    _check_channels(findings, cfg, arch)
    style = "caffe" if metadata.stride_in_1x1 else "pytorch"
    for place in (BACKBONE, SHARED_HEAD):
        part = mapping(cfg.values, place)
        path = (*place, "style")
        if part and arch.bottleneck and part.get("style", "pytorch") != style:
            findings.add("stride-position", path, part.get("style", "pytorch"), style, changes={path: style})
        path = (*place, "depth")
        if place == SHARED_HEAD and part and part.get("depth") != arch.depth:
            findings.add("arch", path, part.get("depth"), arch.depth, changes={path: arch.depth})
    check_plain(findings, cfg)
    _check_frozen(findings, cfg, arch)
    if kind(mapping(cfg.values, SHARED_HEAD)) == "ResLayer":
        findings.add(
            "extra-norm",
            (*SHARED_HEAD, "type"),
            "ResLayer",
            "ResLayerExtraNorm",
            fix="mmdet has no such layer: take MMSelfSup's (models/utils/res_layer_extra_norm.py) by custom_imports",
        )


def _check_frozen(findings: Findings, cfg: OpenMMLabConfig, arch: Architecture) -> None:
    """Stages without gradients, or with a learning rate of 0."""
    frozen = mapping(cfg.values, BACKBONE).get("frozen_stages", -1)
    if cfg.framework == "mmpretrain" and frozen == len(arch.blocks):
        findings.note("every stage is frozen: a linear probe")
        return
    path: KeyPath = (*BACKBONE, "frozen_stages")
    if frozen != -1:
        findings.add("frozen-stages", path, frozen, -1, changes={path: -1})
    names = [f"backbone.{name}" for name in keymap.mmseg(arch.name).names.values()]
    for group in (("optim_wrapper", "paramwise_cfg"), ("optimizer", "paramwise_cfg")):
        for key, settings in mapping(cfg.values, (*group, "custom_keys")).items():
            # mmengine's DefaultOptimWrapperConstructor looks for the key anywhere in a parameter's name.
            still = isinstance(settings, dict) and number(settings.get("lr_mult")) == 0
            if still and isinstance(key, str) and any(key in name for name in names):
                place = (*group, "custom_keys", key, "lr_mult")
                findings.add("frozen-stages", place, settings["lr_mult"], 1.0, changes={place: 1.0})


def _check_type(findings: Findings, backbone: dict[str, Any], right: str) -> None:
    path = (*BACKBONE, "type")
    changes: dict[KeyPath, Any] = {path: right} if kind(backbone) != right else {}
    for key in ("deep_stem", "avg_down"):
        if backbone.get(key):
            changes[*BACKBONE, key] = False
    if kind(backbone) in _DEEP_STEMS or backbone.get("deep_stem"):
        findings.add("deep-stem", next(iter(changes)), Text(_words(backbone)), right, changes=changes)
    elif kind(backbone) in ("ResNet", "ResNeXt"):
        if changes:
            findings.add("arch", next(iter(changes)), Text(_words(backbone)), right, changes=changes)
    else:
        fix = f"begin from a configuration whose backbone is a {right}"
        findings.add("arch", path, kind(backbone), right, fix=fix)


def _words(backbone: dict[str, Any]) -> str:
    return kind(backbone) + "".join(f" with {key}" for key in ("deep_stem", "avg_down") if backbone.get(key))


def _check_channels(findings: Findings, cfg: OpenMMLabConfig, arch: Architecture) -> None:
    """What the parts behind the backbone expect of it."""
    stages = mapping(cfg.values, BACKBONE).get("out_indices", (0, 1, 2, 3) if cfg.framework != "mmpretrain" else (3,))
    if not isinstance(stages, (list, tuple)) or not all(isinstance(one, int) and 0 <= one < 4 for one in stages):
        return
    widths = [arch.stage_widths[stage] for stage in stages]
    readers = [("model", "neck")] if at(cfg.values, ("model", "neck")) else [("model", "decode_head")]
    readers.append(("model", "auxiliary_head"))
    for reader in readers:
        for place, part in listed(cfg.values, reader):
            has = part.get("in_channels")
            index = part.get("in_index", -1)
            right: int | list[int] | None = None
            if isinstance(has, (list, tuple)):
                indices = index if isinstance(index, (list, tuple)) else range(len(widths))
                right = [widths[i] for i in indices if isinstance(i, int) and -len(widths) <= i < len(widths)]
            elif isinstance(has, int) and isinstance(index, int) and -len(widths) <= index < len(widths):
                right = widths[index]
            if right is not None and (list(has) if isinstance(has, (list, tuple)) else has) != right:
                path = (*place, "in_channels")
                findings.add("arch", path, has, right, changes={path: right})
