"""What the text of a configuration in a file says of the input; it is parsed, never run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 256 * 1024
"""Characters. A whole mmdetection configuration has about 10,000; parsing takes some thousand times as much memory."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Configuration:
    """Every value that the text gives a keyword, in whichever place."""

    orders: frozenset[bool] = frozenset()
    """Of `bgr_to_rgb` and `to_rgb`."""
    styles: frozenset[str] = frozenset()
    """Of a ResNet's `style`: `pytorch` has the stride in the 3x3, `caffe` in the 1x1."""
    normalisations: frozenset[tuple[Triple, Triple]] = frozenset()
    """`mean` and `std`, of three numbers each, that stand side by side."""


def parse(text: str) -> Configuration:
    """Read the keywords out of Python text of mmengine or mmcv; text that is none, or too long, says nothing."""
    if len(text) > MAX_TEXT:
        return Configuration()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's escapes and comparisons
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Configuration()
    orders, styles, normalisations = set[bool](), set[str](), set[tuple[Triple, Triple]]()
    for mapping in _mappings(tree):
        for key, node in mapping.items():
            value = node.value if isinstance(node, ast.Constant) else None
            if key == "style" and isinstance(value, str):
                styles.add(value)
            elif key in ("bgr_to_rgb", "to_rgb") and isinstance(value, bool):
                orders.add(value)
        mean, std = (_triple(mapping.get(key)) for key in ("mean", "std"))
        if mean is not None and std is not None:
            normalisations.add((mean, std))
    return Configuration(frozenset(orders), frozenset(styles), frozenset(normalisations))


def _mappings(tree: ast.Module) -> Iterator[dict[str, ast.expr]]:
    """Of each `dict(key=value)` or other call, and of each `{'key': value}`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
        elif isinstance(node, ast.Dict):
            yield {
                key.value: value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }


def _triple(node: ast.expr | None) -> Triple | None:
    if not isinstance(node, ast.List | ast.Tuple) or len(node.elts) != 3:
        return None
    numbers = [_number(element) for element in node.elts]
    one, two, three = numbers
    return None if one is None or two is None or three is None else (one, two, three)


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _number(node.operand)
        return None if number is None else -number
    value: Any = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
