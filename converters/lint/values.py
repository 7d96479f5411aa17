"""Numbers and lists out of a configuration, in which any value may stand at any place."""

from __future__ import annotations

import math
from typing import Any

_LARGEST = 1e12
"""No setting is larger: beyond it arithmetic overflows, and nothing is meant."""


def number(value: object) -> float | None:
    """A number as it is, where it is finite and of a size that can be meant; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) <= _LARGEST and math.isfinite(value) else None


def count(value: object) -> int | None:
    """A whole number above 0, written 8 or 8.0; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found > 0 and found == int(found) else None


def sequence(value: object) -> tuple[Any, ...]:
    """The elements of a list or tuple; none for anything else."""
    return tuple(value) if isinstance(value, (list, tuple)) else ()
