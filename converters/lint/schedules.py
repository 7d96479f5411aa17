"""Training lengths and learning rates against the published ones; iterations scale inversely with the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converters.lint.finding import Findings, Path, Text, shown
from converters.lint.published import Schedule
from converters.lint.values import number

_TOLERANCE = 0.02
"""Relative: published schedules round their iterations."""


@dataclass(frozen=True)
class Length:
    """The schedule of a configuration."""

    iterations: int
    steps: tuple[Any, ...]
    batch: int


def near(one: float, other: float) -> bool:
    """Equal within the rounding of published schedules."""
    return abs(one - other) <= _TOLERANCE * abs(other)


def linear_rate(rate: float, batch: float, reference: float) -> float:
    """The learning rate of another batch (Goyal et al., arXiv:1706.02677)."""
    return float(f"{rate * batch / reference:.6g}")


def _scaled(schedule: Schedule, batch: int) -> Length:
    factor = schedule.batch / batch
    return Length(round(schedule.iterations * factor), tuple(round(step * factor) for step in schedule.steps), batch)


def check_length(
    findings: Findings, data_set: str, known: Sequence[Schedule], length: Length, paths: tuple[Path, Path]
) -> None:
    """Warn of a schedule that is none of the published ones.

    Where it is one of them but for the batch, whose iterations were not scaled, `--fix` writes the right one; else
    nobody can know which one was meant. `paths` are those of the length and of the steps.
    """
    if not known or any(_same(length, _scaled(schedule, length.batch)) for schedule in known):
        return
    end, steps = paths
    unscaled = next((schedule for schedule in known if near(length.iterations, schedule.iterations)), None)
    listed = ", ".join(f"{_scaled(schedule, length.batch).iterations} ({schedule.name})" for schedule in known)
    changes: dict[Path, Any] = {}
    if unscaled is not None:
        right = _scaled(unscaled, length.batch)
        changes = {end: right.iterations} | ({steps: right.steps} if right.steps else {})
    findings.add(
        "schedule",
        end,
        Text(f"{length.iterations}, steps {shown(length.steps)}, with {length.batch} images a batch"),
        Text(f"one of the {data_set} schedules: {listed}"),
        fix=None if changes else "take one of them, or report the number as one of a schedule of its own",
        severity="warning",
        changes=changes,
    )


def _same(length: Length, published: Length) -> bool:
    steps = [number(step) for step in length.steps]
    return (
        near(length.iterations, published.iterations)
        and len(steps) == len(published.steps)
        and all(step is not None and near(step, right) for step, right in zip(steps, published.steps, strict=True))
    )
