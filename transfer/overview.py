"""What a run shows of itself: a live table on a terminal, a line for each start and end elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from converters.progress import clock
from transfer.cells import Status, Step
from transfer.launch import Running

_COLOURS = {"pending": "dim", "running": "cyan", "done": "green", "failed": "red", "not applicable": "dim"}


class Overview:
    """Shows the statuses of a run on standard error."""

    def __init__(self, statuses: Mapping[Step, Status], running: Mapping[Step, Running]) -> None:
        self._statuses, self._running = statuses, running
        self._start = time.monotonic()
        self._console = Console(stderr=True, highlight=False)
        # Without a refreshing thread: the run forks, and a thread may hold a lock at that moment.
        self._live = Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None

    def __enter__(self) -> Overview:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self.tick()
            self._live.stop()

    def started(self, step: Step) -> None:
        """Tell that the step's process has started."""
        self._tell(f"start   {step.title}")

    def finished(self, step: Step) -> None:
        """Tell that the step's process has ended."""
        status = self._statuses[step]
        reason = f": {status.reason}" if status.reason else ""
        self._tell(f"{status.state:7} {step.title} in {clock(status.seconds)}{reason}")

    def tick(self) -> None:
        """Refresh the live table."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _tell(self, line: str) -> None:
        if self._live is not None:
            self.tick()
            return
        ended = sum(status.state not in ("pending", "running") for status in self._statuses.values())
        elapsed = clock(time.monotonic() - self._start)
        self._console.print(f"[{ended}/{len(self._statuses)}  {elapsed}]  {line}", markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("state", width=14)
        table.add_column("time", width=8, justify="right")
        table.add_column("step", no_wrap=True, ratio=1)
        table.add_column("", no_wrap=True, ratio=1, style="dim")
        for step, status in self._statuses.items():
            one = self._running.get(step)
            seconds = time.monotonic() - one.started if one is not None else status.seconds
            told = one.last_line() if one is not None else "was done" if status.already else status.reason
            state = Text(status.state, style=_COLOURS[status.state])
            table.add_row(state, clock(seconds) if seconds else "", Text(step.title), Text(told))
        return table
