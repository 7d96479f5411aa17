"""What the doctor says of one thing."""

from __future__ import annotations

from typing import Literal

from converters.settings import Settings


class Finding(Settings):
    """One line of the report."""

    name: str
    state: Literal["ok", "note", "fault"]
    """`note`: something is absent that the toolkit does without; `fault`: something that is needed is broken."""
    found: str
    cure: str | None = None

    def line(self) -> str:
        """For a terminal."""
        return f"{self.state:5}  {self.name:13} {self.found}" + (f"; {self.cure}" if self.cure else "")


def gib(count: float) -> str:
    """Bytes as `1.5 GiB`."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
