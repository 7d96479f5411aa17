"""How the toolkit stops: by a mistake of the user's (exit code 2), a failed check (1), or on request (75)."""

from __future__ import annotations

from pathlib import Path


def printable(text: str) -> str:
    """The text with every character that could steer a terminal (escapes, newlines, marks of direction) written out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class UserError(Exception):
    """Wrong use: a path, a file, a setting. Shown as one line without a traceback; exit code 2.

    Args:
        expected: what the code needed.
        found: what it met instead.
        where: the file, key or option in question.
        cure: what to do about it, as an imperative.
    """

    def __init__(self, *, expected: str, found: str, where: str | Path | None = None, cure: str | None = None) -> None:
        self.expected, self.found, self.where, self.cure = expected, found, where, cure
        line = f"expected {expected}, found {found}"
        if where is not None:
            line = f"{where}: {line}"
        if cure is not None:
            line = f"{line}; {cure}"
        super().__init__(printable(" ".join(line.split())))


class MissingPackage(UserError):
    """An optional framework is not installed."""

    def __init__(self, package: str, install: str, needed_for: str) -> None:
        super().__init__(
            expected=f"the package {package} for {needed_for}",
            found="none installed",
            cure=f"install it with: {install}",
        )
        self.package = package


class CheckFailed(Exception):
    """A proof of ours did not hold (parity, coverage, receipt, a non-finite loss). Shown as one line; exit code 1."""


EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command goes on later. Schedulers can requeue on it."""


class Stopped(Exception):
    """Ended on request, before it was done, with its work saved. Shown as one line; exit code `EXIT_REQUEUE`.

    The message says what was saved, and how to go on.
    """
