"""The rules for the model of an OpenMMLab configuration: its input and its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters import to_openmmlab
from converters.architectures import ARCHITECTURES, Architecture
from converters.errors import UserError
from converters.lint import openmmlab_norm, openmmlab_training, openmmlab_weights
from converters.lint.finding import Findings, Text
from converters.lint.finding import Path as KeyPath
from converters.lint.input_rules import check_normalisation, close, numbers
from converters.lint.openmmlab_view import (
    BACKBONE,
    SHARED_HEAD,
    OpenMMLabConfig,
    at,
    framework_of,
    kind,
    listed,
    mapping,
)
from converters.metadata import BackboneMetadata

_DEEP_STEMS = ("ResNetV1c", "ResNetV1d")
_DEFAULTS = {"groups": 1, "base_width": 4, "width_per_group": 4, "stem_channels": 64, "base_channels": 64}
"""Of the ResNet and ResNeXt classes of mmseg 1.x, mmdet 3.x and mmpretrain 1.x."""


def check(
    values: dict[str, Any], path: Path, metadata: BackboneMetadata, gpus: int | None, source: Path | None
) -> Findings:
    """Hold a configuration against a backbone.

    Args:
        values: what `openmmlab_config.read` gave.
        path: of the configuration.
        metadata: of the backbone.
        gpus: how many devices will train; 0 is a CPU, None is not known.
        source: the file of the backbone, where it lies in one: what `--fix` may name as weights.

    Raises:
        UserError: if it is of no known framework.
    """
    cfg = OpenMMLabConfig(values, path, framework_of(values, path), gpus)
    findings = Findings()
    _check_input(findings, cfg, metadata)
    _check_network(findings, cfg, metadata)
    openmmlab_norm.check(findings, cfg)
    openmmlab_weights.check(findings, cfg, metadata, source)
    openmmlab_training.check(findings, cfg)
    return findings


def _check_input(findings: Findings, cfg: OpenMMLabConfig, metadata: BackboneMetadata) -> None:
    own, top = ("model", "data_preprocessor"), ("data_preprocessor",)
    swap = "to_rgb" if cfg.framework == "mmpretrain" else "bgr_to_rgb"
    steps = _normalize_steps(cfg)
    if not mapping(cfg.values, own) and not mapping(cfg.values, top) and steps:
        place, swap = steps[0], "to_rgb"  # the 0.x line normalises in the pipeline
        places = steps
    else:
        # The Runner puts the top-level one into a model that has none.
        place = own if mapping(cfg.values, own) or not mapping(cfg.values, top) else top
        places = [place, *([top] if place == own and mapping(cfg.values, top) else [])]
    input_settings = mapping(cfg.values, place)
    order = metadata.preprocess.channel_order
    # Images are loaded as BGR. Either key turns the channels round (mmengine, ImgDataPreprocessor).
    found = "RGB" if any(input_settings.get(key, False) for key in (swap, "rgb_to_bgr")) else "BGR"
    if found != order:
        changes: dict[KeyPath, Any] = {
            (*one, swap): order == "RGB" for one in places if one == place or swap in mapping(cfg.values, one)
        }
        if input_settings.get("rgb_to_bgr"):
            changes[*place, "rgb_to_bgr"] = False
        findings.add("channel-order", (*place, swap), input_settings.get(swap, False), order == "RGB", changes=changes)
    check_normalisation(
        findings,
        metadata,
        input_settings.get("mean"),
        input_settings.get("std"),
        {
            key: [(*one, key) for one in places if one == place or key in mapping(cfg.values, one)]
            for key in ("mean", "std")
        },
    )
    if place == own:
        _check_second_preprocessor(findings, cfg, swap)
    if steps and places != steps and input_settings.get("mean") is not None:
        findings.add(
            "normalised-twice",
            steps[0],
            Text("a Normalize step beside data_preprocessor"),
            Text("data_preprocessor alone"),
            fix="remove the Normalize steps from the pipelines",
        )


def _check_second_preprocessor(findings: Findings, cfg: OpenMMLabConfig, swap: str) -> None:
    """The top-level one against what the model's own has, or is to have."""
    place: KeyPath = ("model", "data_preprocessor")
    own, top = mapping(cfg.values, place), mapping(cfg.values, ("data_preprocessor",))
    keys = [key for key in ("mean", "std", swap) if key in top and key in own and not _same(top[key], own[key])]
    if not keys:
        return
    cured = {change.path: change.value for finding in findings.found for change in finding.changes}
    right = {key: cured.get((*place, key), own[key]) for key in keys}
    changes: dict[KeyPath, Any] = {
        ("data_preprocessor", key): value for key, value in right.items() if not _same(top[key], value)
    }
    findings.add(
        "preprocessors-differ",
        ("data_preprocessor", keys[0]),
        top[keys[0]],
        Text(f"{own[keys[0]]!r}, as in model.data_preprocessor"),
        fix="write the right values into model.data_preprocessor",
        changes=changes,
        severity="warning",
    )


def _same(one: object, other: object) -> bool:
    first, second = numbers(one), numbers(other)
    return close(first, second) if first is not None and second is not None else one == other


def _normalize_steps(cfg: OpenMMLabConfig) -> list[KeyPath]:
    """Where the pipelines normalise; the training's first. Found under the names that pipelines have at the top."""
    return [
        (*path,)
        for name in ("train_pipeline", "test_pipeline")
        for path, step in listed(cfg.values, (name,))
        if kind(step) == "Normalize"
    ]


def _check_network(findings: Findings, cfg: OpenMMLabConfig, metadata: BackboneMetadata) -> None:
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
    frozen = backbone.get("frozen_stages", -1)
    if cfg.framework == "mmpretrain" and frozen == len(arch.blocks):
        findings.note("every stage is frozen: a linear probe")
    elif frozen != -1:
        path = (*BACKBONE, "frozen_stages")
        findings.add("frozen-stages", path, frozen, -1, changes={path: -1})
    if kind(mapping(cfg.values, SHARED_HEAD)) == "ResLayer":
        findings.add(
            "extra-norm",
            (*SHARED_HEAD, "type"),
            "ResLayer",
            "ResLayerExtraNorm",
            fix="mmdet has no such layer: take MMSelfSup's (models/utils/res_layer_extra_norm.py) by custom_imports",
        )


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
    if not isinstance(stages, (list, tuple)) or not all(stage in range(4) for stage in stages):
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
