"""Channel order, mean and std: the same rules for every framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.fragment import on_byte_scale
from converters.lint.finding import Findings, Path, Text
from converters.metadata import BackboneMetadata

_TOLERANCE = 0.05
"""On the scale 0-255: published means and stds differ by less in their last digit."""


def numbers(value: object) -> list[float] | None:
    """Three numbers, or one three times; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [float(value)] * 3
    if isinstance(value, Sequence) and not isinstance(value, str):
        values = list(value)
        if len(values) == 1:
            values *= 3
        if len(values) == 3 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            return [float(v) for v in values]
    return None


def close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Equal but for rounding."""
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(one, other, strict=True))


def check_normalisation(
    findings: Findings, metadata: BackboneMetadata, mean: object, std: object, paths: dict[str, list[Path]]
) -> None:
    """Mean and std against the backbone's.

    Args:
        findings: takes what is wrong.
        metadata: of the backbone.
        mean: as the configuration has it.
        std: likewise.
        paths: of `mean` and of `std`, the one in force first; the others are changed along.
    """
    right: dict[str, list[float]] = dict(zip(("mean", "std"), on_byte_scale(metadata.preprocess), strict=True))
    for rule, found in (("mean", mean), ("std", std)):
        values, expected = numbers(found), right[rule]
        if values is not None and close(values, expected):
            continue
        changes: dict[Path, Any] = dict.fromkeys(paths[rule], expected)
        findings.add(
            rule,
            paths[rule][0],
            Text("not set") if found is None else found,
            expected,
            why=_reason(rule, values, expected, metadata),
            changes=changes,
        )


def _reason(rule: str, found: list[float] | None, expected: list[float], metadata: BackboneMetadata) -> str | None:
    """Why these numbers look as they do, where that can be told."""
    if found is None:
        return None
    if close(found, expected[::-1]):
        order = metadata.preprocess.channel_order
        return f"these are the right numbers in the wrong order: the backbone's channels are {order}"
    if close([value * 255 for value in found], expected):
        return "these are the right numbers on the scale 0-1; the framework's images have values from 0 to 255"
    if rule == "std" and close(found, [1, 1, 1]):
        return "std 1 belongs to weights that have it folded into their first convolution, as MSRA's R-50.pkl has"
    if rule == "std" and close(expected, [1, 1, 1]):
        return "these weights have the std folded into their first convolution: dividing by it once more is too much"
    return None
