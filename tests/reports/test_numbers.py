from __future__ import annotations

import pytest

from reports.numbers import duration, shown, signed


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(71.25, "%", "71.2"), (71.26, "%", "71.3"), (-0.04, "%", "0.0"), (-0.06, "%", "−0.1"), (1.23456, "", "1.235")],
)
def test_percent_has_one_decimal_and_zero_no_sign(value: float, unit: str, expected: str) -> None:
    assert shown(value, unit) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(3.14, "+3.1"), (-3.14, "−3.1"), (0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1")]
)
def test_a_difference_has_its_sign(value: float, expected: str) -> None:
    assert signed(value, "%") == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(12.53, "12.5 s"), (200, "3 min 20 s"), (18420.4, "5 h 07 min"), (3599.6, "1 h 00 min")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
