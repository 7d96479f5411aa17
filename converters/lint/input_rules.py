"""Channel order, mean and std: the same rules for every framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.fragment import on_byte_scale
from converters.lint.finding import Findings, Path, Text
from converters.lint.values import number, sequence
from converters.metadata import BackboneMetadata, Preprocess
from converters.receipt import same_input

_ROUNDED = 0.5
"""On the scale 0-255: numbers that differ by less are meant to be the same."""


def numbers(value: object) -> list[float] | None:
    """Three numbers, or one three times; None for anything else."""
    values = sequence(value) or (value,)
    found = [number(one) for one in (values * 3 if len(values) == 1 else values)]
    return [float(one) for one in found if one is not None] if len(found) == 3 and None not in found else None


def close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the receipt would take one for the other, on the scale 0-255."""

    def as_input(values: Sequence[float]) -> Preprocess:
        return Preprocess(mean=(values[0], values[1], values[2]), std=(1.0, 1.0, 1.0), value_range=(0.0, 255.0))

    return same_input(as_input(one), as_input(other))


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
    folded = _folded(found, expected) if rule == "std" else None
    if folded is not None:
        return folded
    if close(found, expected[::-1]):
        order = metadata.preprocess.channel_order
        return f"these are the right numbers in the wrong order: the backbone's channels are {order}"
    if close([value * 255 for value in found], expected):
        return "these are the right numbers on the scale 0-1; the framework's images have values from 0 to 255"
    if all(abs(a - b) < _ROUNDED for a, b in zip(found, expected, strict=True)):
        return "these are the right numbers, rounded so far that the receipt would refuse them when training starts"
    return None


def _folded(found: list[float], expected: list[float]) -> str | None:
    """Why, where either std is 1."""
    if close(found, [1, 1, 1]):
        return "std 1 belongs to weights that have it folded into their first convolution, as MSRA's R-50.pkl has"
    if close(expected, [1, 1, 1]):
        return "these weights have the std folded into their first convolution: dividing by it once more is too much"
    return None
