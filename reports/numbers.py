"""How numbers are shown to people. Files for programs hold full precision instead."""

from __future__ import annotations

MINUS = "\u2212"


def decimals(unit: str) -> int:
    """Digits behind the point: one for percent, as papers print AP, mIoU and accuracy; three for anything else."""
    return 1 if unit == "%" else 3


def shown(value: float, unit: str) -> str:
    """A value of this unit at its shown precision, with a true minus sign and no negative zero."""
    text = f"{value:.{decimals(unit)}f}"
    magnitude = text.removeprefix("-")
    negative = text.startswith("-") and float(magnitude) != 0
    return f"{MINUS}{magnitude}" if negative else magnitude


def signed(value: float, unit: str) -> str:
    """A difference: always with its sign, except for a zero."""
    text = shown(value, unit)
    return text if text.startswith(MINUS) or not any(digit in text for digit in "123456789") else f"+{text}"


def same_when_shown(a: float, b: float, unit: str) -> bool:
    """Whether two values print alike."""
    return shown(a, unit) == shown(b, unit)


def duration(seconds: float) -> str:
    """Seconds as `12.5 s`, `3 min 20 s` or `5 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short(fingerprint: str) -> str:
    """The first digits of a fingerprint: enough to tell two apart by eye."""
    return fingerprint[:8]
