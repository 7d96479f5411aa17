"""SIGTERM and SIGUSR1 as a wish that the training loop reads: finish the step, write a checkpoint, end.

Schedulers announce the end of a job's time so (SLURM: `--signal=USR1@300`, `scancel`; kubernetes and `kill`: SIGTERM).
The run then raises `converters.errors.Stopped`, and its exit code tells the scheduler to queue it again.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGUSR1)

ECHO = 2.0
"""Seconds in which a second signal is taken for the first one's echo: a scheduler tells every process of a job, and the
launcher passes on to them what it was told itself."""


class Stop:
    """What has been asked for so far; in this process alone, so that a group must agree before it acts."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first that came."""

    @property
    def requested(self) -> bool:
        """Whether the run should end behind this step."""
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Take note of the first SIGTERM or SIGUSR1 instead of dying of it.

    A later one has its default action and ends the process at once, so that a user can insist. The former handlers are
    back when the context ends. Python handles signals in its main thread alone: in another one this does nothing, and
    nothing is ever requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    noted = 0.0

    def take_note(number: int, _: FrameType | None) -> None:
        nonlocal noted
        if stop.signal is None:
            stop.signal, noted = signal.Signals(number), time.monotonic()
        elif time.monotonic() - noted > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    former = {each: signal.signal(each, take_note) for each in HANDLED}
    try:
        yield stop
    finally:
        for each, handler in former.items():
            # None stands for a handler that was not set from Python, and cannot be put back from there.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
