"""What stops a report: a record or a run folder that cannot be read as it must."""

from __future__ import annotations

from pathlib import Path


class ReportError(Exception):
    """A record or a run that cannot be reported on. Shown as one line without a traceback; exit code 2.

    Args:
        expected: what a report needs.
        found: what it met instead.
        where: the file, folder or option in question.
        cure: what to do about it, as an imperative.
    """

    def __init__(self, *, expected: str, found: str, where: str | Path | None = None, cure: str | None = None) -> None:
        self.expected, self.found, self.where, self.cure = expected, found, where, cure
        line = f"expected {expected}, found {found}"
        if where is not None:
            line = f"{where}: {line}"
        if cure is not None:
            line = f"{line}; {cure}"
        super().__init__(" ".join(line.split()))
