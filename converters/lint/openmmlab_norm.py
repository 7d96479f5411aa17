"""The rules for batch norm in an OpenMMLab configuration."""

from __future__ import annotations

from typing import Any

from converters.lint import published
from converters.lint.finding import Findings, Text
from converters.lint.finding import Path as KeyPath
from converters.lint.openmmlab_view import BACKBONE, SHARED_HEAD, OpenMMLabConfig, at, kind, listed, mapping, walk

_SYNCHRONISED = ("SyncBN", "MMSyncBN", "NaiveSyncBN")
_BATCH_NORMS = ("BN", "BN2d", *_SYNCHRONISED)
_STOCK = {"type": "BN", "requires_grad": True}
"""What every ResNet of OpenMMLab has without a norm_cfg."""


def check(findings: Findings, cfg: OpenMMLabConfig) -> None:
    """Kind of norm, and whether it trains."""
    norms = _norms(cfg)
    _check_frozen(findings, cfg, norms)
    one_by_one: dict[KeyPath, Any] = {}
    per_device: dict[KeyPath, Any] = {}
    for path, norm in norms.items():
        right = _norm_changes(cfg, path, cfg.right_norm)
        if kind(norm) in _SYNCHRONISED and cfg.one_device:
            one_by_one |= right
        elif kind(norm) in ("BN", "BN2d") and not cfg.one_device:
            per_device |= right
        elif kind(norm) not in _BATCH_NORMS and path[:2] in (BACKBONE, SHARED_HEAD[:2]) and path[-1] == "norm_cfg":
            findings.add("norm-kind", path, kind(norm), cfg.right_norm, changes=right)
    if one_by_one:
        device = "a CPU" if cfg.gpus == 0 else "one GPU"
        first = next(iter(one_by_one))
        findings.add("sync-bn-one-device", first, "SyncBN", Text(f"'BN' on {device}"), changes=one_by_one)
    if per_device:
        _per_device(findings, cfg, per_device)
    elif (
        cfg.one_device
        and cfg.images is not None
        and cfg.images < published.FEW_IMAGES
        and cfg.framework != "mmpretrain"
    ):
        findings.add(
            "norm-kind",
            (*BACKBONE, "norm_cfg"),
            Text(f"batch norm over {cfg.images} images"),
            Text(f"at least {published.FEW_IMAGES} images"),
            fix="raise train_dataloader.batch_size, or train on several GPUs with SyncBN",
            severity="warning",
        )
    for path, neck in listed(cfg.values, ("model", "neck")):
        if kind(neck) == "FPN" and cfg.framework == "mmdet" and not neck.get("norm_cfg"):
            place = (*path, "norm_cfg")
            right_norm = {"type": cfg.right_norm, "requires_grad": True}
            findings.add("fpn-norm", place, Text("not set"), right_norm, changes={place: right_norm})


def _per_device(findings: Findings, cfg: OpenMMLabConfig, changes: dict[KeyPath, Any]) -> None:
    images = "an unknown number of" if cfg.images is None else str(cfg.images)
    fix = "set type='SyncBN' in " + ", ".join(sorted({_place(path) for path in changes}))
    findings.add(
        "norm-kind",
        next(iter(changes)),
        Text(f"'BN' over the {images} images of one device"),
        "SyncBN",
        fix=fix + ("" if cfg.gpus is not None else "; or say --gpus 1 where one GPU trains"),
        changes=changes,
    )


def _place(path: KeyPath) -> str:
    return ".".join(str(step) for step in path[: path.index("norm_cfg")]) + ".norm_cfg"


def _norms(cfg: OpenMMLabConfig) -> dict[KeyPath, dict[str, Any]]:
    """Every norm_cfg of the model, and the default one of the backbone and of res5 in a C4 head."""
    found: dict[KeyPath, dict[str, Any]] = {}
    for place in (BACKBONE, SHARED_HEAD):
        part = mapping(cfg.values, place)
        if part:
            norm = part.get("norm_cfg")
            found[*place, "norm_cfg"] = norm if isinstance(norm, dict) else _STOCK
    for path, part in walk(mapping(cfg.values, ("model",)), ("model",)):
        norm = part.get("norm_cfg")
        if isinstance(norm, dict):
            found.setdefault((*path, "norm_cfg"), norm)
    return found


def _norm_changes(cfg: OpenMMLabConfig, path: KeyPath, right: str) -> dict[KeyPath, Any]:
    if isinstance(at(cfg.values, path), dict):
        return {(*path, "type"): right}
    return {path: {"type": right, "requires_grad": True}}


def _check_frozen(findings: Findings, cfg: OpenMMLabConfig, norms: dict[KeyPath, dict[str, Any]]) -> None:
    """norm_eval and requires_grad; mmdet's classes have norm_eval=True where it is not said."""
    stock = cfg.framework == "mmdet"
    backbone = mapping(cfg.values, BACKBONE)
    probe = cfg.framework == "mmpretrain" and backbone.get("frozen_stages") == 4
    for place in (BACKBONE, SHARED_HEAD):
        part = mapping(cfg.values, place)
        path: KeyPath = (*place, "norm_eval")
        if part and part.get("norm_eval", stock) and not probe:
            found = True if "norm_eval" in part else Text("True (mmdet's default)")
            findings.add("frozen-bn", path, found, False, changes={path: False})
    for path, norm in norms.items():
        if norm.get("requires_grad", True) is False and not probe:
            place = (*path, "requires_grad")
            findings.add("frozen-bn", place, False, True, changes={place: True})
