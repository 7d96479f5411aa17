"""The rules for an OpenMMLab configuration, and among them those for its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.lint import openmmlab_network, openmmlab_norm, openmmlab_training, openmmlab_weights
from converters.lint.finding import Findings, Text, shown
from converters.lint.finding import Path as KeyPath
from converters.lint.input_rules import check_normalisation, close, numbers
from converters.lint.openmmlab_view import OpenMMLabConfig, framework_of, kind, listed, mapping
from converters.metadata import BackboneMetadata


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
    openmmlab_network.check(findings, cfg, metadata)
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
        Text(f"{shown(own[keys[0]])}, as in model.data_preprocessor"),
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
