"""The one rule for seeds given as text."""

from __future__ import annotations

from pathlib import Path

from converters.errors import UserError

LIMIT = 2**63
"""Seeds are below it: they fit the signed 64-bit integers of every generator and file format."""


def parse_seed(text: str, where: str | Path | None = None) -> int:
    """A whole number from 0 to 2**63 - 1.

    Raises:
        UserError: for anything else.
    """
    # The length first: Python refuses to convert very long numbers with an error of its own.
    if text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT)) and int(text) < LIMIT:
        return int(text)
    found = repr(text) if len(text) <= 40 else f"{text[:40]!r}…"
    raise UserError(expected="a seed: a whole number from 0 to 2**63 - 1", found=found, where=where)
