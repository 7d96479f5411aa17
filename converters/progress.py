"""One progress display for all long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_PLAIN_INTERVAL = 10.0  # seconds between lines where there is no terminal


class Progress:
    """Counts towards `total`, with rate and remaining time.

    Use as a context manager; `step(n, loss=0.3)` advances by `n` and shows the fields.
    """

    def __init__(self, label: str, total: int, unit: str = "it", stream: TextIO | None = None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.stream = stream if stream is not None else sys.stderr
        self.done = 0
        self._live = self.stream.isatty()
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self.stream.write("\n")
        self.stream.flush()

    def step(self, n: int = 1, **fields: float | str) -> None:
        """Advance by `n`; `fields` are shown behind the rate."""
        self.done += n
        now = time.monotonic()
        interval = 0.1 if self._live else _PLAIN_INTERVAL
        if now - self._shown >= interval or self.done >= self.total:
            self._shown = now
            self._show(now, fields)

    def clear(self) -> None:
        """Take the live bar off its line, so that a line can be printed there."""
        if self._live:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()

    def _show(self, now: float, fields: dict[str, float | str]) -> None:
        rate = self.done / max(now - self._start, 1e-9)
        remaining = max(self.total - self.done, 0) / rate if rate else 0.0
        shown = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in fields.items()
        )
        count = f"{self.label}  {self.done}/{self.total}  {rate:.1f} {self.unit}/s"
        text = f"{count}  {clock(remaining)} left  {shown}".rstrip()
        self.stream.write(f"\r\x1b[2K{text}" if self._live else f"{text}\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
