"""What makes another network of an OpenMMLab ResNet than the plain one, without a tensor that is amiss.

The keys and their defaults are those of `ResNet.__init__` in mmseg 1.x, mmdet 3.x and mmpretrain 1.x
(models/backbones/resnet.py), and of mmdet's `ResLayer.__init__` (models/roi_heads/shared_heads/res_layer.py).
"""

from __future__ import annotations

from typing import Any

from converters.lint.finding import Findings, Text, shown
from converters.lint.finding import Path as KeyPath
from converters.lint.openmmlab_view import BACKBONE, SHARED_HEAD, OpenMMLabConfig, at, kind, listed, mapping
from converters.lint.values import sequence

_OTHER_RULES = (
    *("type", "depth", "groups", "base_width", "width_per_group", "stem_channels", "base_channels", "deep_stem"),
    *("avg_down", "style", "frozen_stages", "norm_cfg", "norm_eval", "pretrained", "init_cfg"),
)
"""Keys that rules of their own look at."""
_OF_NO_EFFECT = ("out_indices", "with_cp", "zero_init_residual", "contract_dilation", "stage_with_dcn", "_scope_")
"""On the values that a plain ResNet with loaded weights computes; contract_dilation has a rule where it has one."""
_PLAIN: dict[str, Any] = {
    "in_channels": 3,
    "conv_cfg": None,
    "dcn": None,
    "plugins": None,
    "multi_grid": None,
    "expansion": None,
    "drop_path_rate": 0.0,
}
_SHARED_HEAD_PLAIN: dict[str, Any] = {"stage": 3, "stride": 2, "dilation": 1, "dcn": None}
"""Of res5 in a C4 head."""
_NORM_PLAIN: dict[str, Any] = {"eps": 1e-5, "affine": True, "track_running_stats": True}
"""Of a batch norm: torch's own."""

_STEPS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}
"""Strides and dilations of the stages, by the stride of the output: the plain ResNet, and the two that segmentation
dilates (He et al., arXiv:1911.05722, appendix A.5, has 16; OpenMMLab's -d8 has 8)."""


def check_plain(findings: Findings, cfg: OpenMMLabConfig) -> None:
    """Every key of the backbone against what a plain ResNet has."""
    backbone = mapping(cfg.values, BACKBONE)
    if kind(backbone) not in ("ResNet", "ResNeXt", "ResNetV1c", "ResNetV1d"):
        return  # none at all, which is a finding already
    for key, value in backbone.items():
        path: KeyPath = (*BACKBONE, str(key))
        if key in _PLAIN:
            if not _plain(key, value):
                findings.add("network", path, value, _PLAIN[key], changes={path: _PLAIN[key]})
        elif key not in (*_OTHER_RULES, *_OF_NO_EFFECT, "num_stages", "strides", "dilations"):
            expected = Text(f"a key of the plain ResNet of {cfg.framework}")
            findings.add("network", path, value, expected, fix="remove it")
    _check_stages(findings, cfg, backbone)
    head = mapping(cfg.values, SHARED_HEAD)
    for key, right in _SHARED_HEAD_PLAIN.items():
        if key in head and head[key] != right:
            path = (*SHARED_HEAD, key)
            findings.add("network", path, head[key], right, changes={path: right})
    for place in (BACKBONE, SHARED_HEAD):
        norm = mapping(cfg.values, (*place, "norm_cfg"))
        for key, right in _NORM_PLAIN.items():
            if key in norm and norm[key] != right:
                path = (*place, "norm_cfg", key)
                findings.add("network", path, norm[key], right, changes={path: right})
    _check_zeroed(findings, cfg, backbone)


def _plain(key: str, value: Any) -> bool:
    if key == "conv_cfg":
        return value is None or (isinstance(value, dict) and value in ({"type": "Conv2d"}, {"type": "Conv"}))
    if key in ("dcn", "plugins"):
        return not value
    if key == "expansion":
        return value in (None, 1, 4)  # another than the depth's own fails on the first tensor
    return bool(value == _PLAIN[key])


def _check_stages(findings: Findings, cfg: OpenMMLabConfig, backbone: dict[str, Any]) -> None:
    """How many there are, and how they stride and dilate."""
    stages = backbone.get("num_stages", 4)
    c4 = bool(mapping(cfg.values, SHARED_HEAD))  # its res5 lies in the head
    path: KeyPath = (*BACKBONE, "num_stages")
    if not (isinstance(stages, int) and (stages == 4 or (c4 and stages == 3))):
        findings.add("network", path, stages, 4, changes={path: 4})
        return
    known = {
        output: (strides[:stages], dilations[:stages])
        for output, (strides, dilations) in _STEPS.items()
        if output == 32 or cfg.framework == "mmseg"
    }
    plain = known[32]
    found = tuple(sequence(backbone.get(key, right)) for key, right in (("strides", plain[0]), ("dilations", plain[1])))
    if found in known.values():
        return
    words = " or ".join(f"{strides} and {dilations}" for strides, dilations in dict.fromkeys(known.values()))
    changes: dict[KeyPath, Any] = {(*BACKBONE, "strides"): plain[0], (*BACKBONE, "dilations"): plain[1]}
    wrong = "strides" if found[0] not in [strides for strides, _ in known.values()] else "dilations"
    findings.add(
        "network",
        (*BACKBONE, wrong),
        Text(f"{shown(found[0])} and dilations {shown(found[1])}"),
        Text(f"strides and dilations {words}"),
        fix="take both of one of these" if len(known) > 1 else None,
        changes={} if len(known) > 1 else changes,
    )


def _check_zeroed(findings: Findings, cfg: OpenMMLabConfig, backbone: dict[str, Any]) -> None:
    """That mmpretrain zeroes the last norm of each block after the weights are in, where init_cfg is no dict."""
    init = at(cfg.values, (*BACKBONE, "init_cfg"))
    loads = any(kind(one) in ("Pretrained", "PretrainedInit") for _, one in listed(cfg.values, (*BACKBONE, "init_cfg")))
    kept = isinstance(init, dict) and kind(init) == "Pretrained"
    if cfg.framework == "mmpretrain" and loads and not kept and backbone.get("zero_init_residual", True):
        path: KeyPath = (*BACKBONE, "zero_init_residual")
        found = backbone.get("zero_init_residual", Text("True (mmpretrain's default)"))
        why = "with such an init_cfg mmpretrain sets the last norm of each block to 0 after the weights were loaded"
        findings.add("network", path, found, False, why=why, changes={path: False})
