"""What a file says of its input settings, which comes before guesses."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from converters.families.content import Content
from converters.families.layout import Convention
from converters.families.matching import Candidate

_BGR_MEAN = (103.53, 116.28, 123.675)


def agreeing(candidates: Iterable[Candidate], content: Content) -> list[Candidate]:
    """The candidates that do not contradict the file; all of them where it says nothing, or contradicts each."""
    every = list(candidates)
    kept = [c for c in every if (told := convention(c, content)) is None or told == c.layout.convention]
    return kept or every


def convention(candidate: Candidate, content: Content) -> Convention | None:
    """The input that the file says its network expects; None where it says nothing."""
    names = candidate.found.group.names
    # detectron2 saved them until 3c0509e6 (2021-02, before 0.4), detectron2/modeling/meta_arch/rcnn.py.
    mean = names.get("pixel_mean")
    if mean is not None and mean.numel() == 3:
        flat = mean.detach().to(torch.float64).flatten().tolist()
        if max(abs(a - b) for a, b in zip(flat, _BGR_MEAN, strict=True)) < 0.01:
            return "caffe2"
        return "torchvision" if max(abs(a - b) for a, b in zip(flat, _BGR_MEAN[::-1], strict=True)) < 0.01 else None
    return _of_configuration(content.top.get("meta"))


def _of_configuration(meta: object) -> Convention | None:
    """From the text of the configuration that mmengine and mmcv save as `meta.cfg` or `meta.config`.

    It is parsed, never run. mmengine 0.10, mmengine/runner/runner.py, save_checkpoint.
    """
    text = (
        next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), None)
        if isinstance(meta, Mapping)
        else None
    )
    if text is None:
        return None
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    styles, orders = set[Any](), set[Any]()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            if node.arg == "style":
                styles.add(node.value.value)
            elif node.arg in ("bgr_to_rgb", "to_rgb"):
                orders.add(node.value.value)
    if orders == {True} and styles <= {"pytorch"}:
        return "torchvision"
    if orders == {False} and styles == {"caffe"}:
        return "caffe2"
    return None
