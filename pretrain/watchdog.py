"""A process that died or froze takes its group down within a minute, instead of letting the others wait for ever.

A collective operation waits for all processes. gloo notices a closed connection, but not a frozen process; NCCL notices
neither before its timeout. So each process has two threads beside the training: one beats, by counting up a number in a
store of its own at process 0; the other judges, by how long a number has not moved. Process 0 judges all others and
tells its verdict to all; they judge process 0 alone. The cost is one small message to process 0 every few seconds.

Clocks of machines are never compared: a number moves or not, on the monotonic clock of the process that looks. A
process that finds itself paused, as a whole job is by its scheduler, gives the others their full time again.

However long a step, a checkpoint or an evaluation takes, the threads go on, as long as Python runs: only a single call
that keeps the interpreter's lock for longer than the limit, or a machine that is out of memory and swaps, starves them.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it in a way that mypy misses

from converters import distributed
from converters.distributed import HereFailed

SILENT = 30.0
"""Seconds without a sign, after which a process counts as dead."""

BEAT = 3.0
"""Seconds between two signs."""

_VERDICT = "verdict"
_NONE = "none"
_GOODBYE = "goodbye"
_MAIN = 0


@contextmanager
def watching(*, silent: float = SILENT, beat: float = BEAT, program: str = "pretrain") -> Iterator[None]:
    """Watch over the default process group while the context lives. Every process of the group must enter.

    Where another process gives no sign for `silent` seconds, this one says so in one line on stderr and ends at once
    with exit code 1, whatever its main thread does. A context that is left by an error says no goodbye: the others have
    `silent` seconds to leave by the same error, before they end too. Without a group, or in a group of one, this does
    nothing.

    Args:
        silent: seconds; several times `beat`.
        beat: seconds.
        program: what its line begins with.

    Raises:
        CheckFailed: if a process cannot reach process 0, or a collective operation fails because another one is gone.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    watch = _Watch(silent, beat, program)
    try:
        yield
    except BaseException as error:
        watch.abandon()
        if _lost(error):
            # Which one it was, its own machine tells: its launcher, or its last words.
            reason = re.sub(r"^\[.*?\] ", "", str(error).splitlines()[0]).split(". ")[0]
            raise HereFailed(f"process {watch.rank} lost its group: another process ended ({reason})") from None
        raise
    watch.leave()


def _lost(error: BaseException) -> bool:
    """Whether a collective operation failed because another process is gone; gloo has no type for it."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    return isinstance(error, RuntimeError) and "gloo/transport" in str(error)


_abandoned: list[TCPStore | None] = []


class _Watch:
    """The two threads of one process; made by all processes together."""

    def __init__(self, silent: float, beat: float, program: str) -> None:
        self.silent, self.beat, self.program = silent, beat, program
        self.rank, size = dist.get_rank(), dist.get_world_size()
        self._server = _serve() if self.rank == _MAIN else None
        places = distributed.gather_values((socket.gethostname(), self._server.port if self._server else 0))
        self._hosts = [host for host, _ in places]
        self._store = distributed.together(lambda: self._connect(places[_MAIN][1]))
        self._store.set(_key(self.rank), "0")
        self._store.set(_VERDICT, _NONE)
        distributed.gather_values(None)  # from here on, all keys are there

        others = [rank for rank in range(size) if rank != self.rank]
        self._watched = others if self.rank == _MAIN else [_MAIN]
        self._seen = dict.fromkeys(self._watched, time.monotonic())
        self._heard: dict[int, str] = {}
        self._gone: set[int] = set()
        self._verdict = ""
        self._ending: Literal["", "leave", "abandon"] = ""
        self._hurry, self._stop = threading.Event(), threading.Event()
        self._beating = threading.Thread(target=self._beat, name="watchdog beat", daemon=True)
        self._judging = threading.Thread(target=self._judge, name="watchdog judge", daemon=True)
        self._beating.start()
        self._judging.start()

    def leave(self) -> None:
        """Say goodbye; process 0, whose store all others use, waits for theirs. The judge is awake meanwhile."""
        self._ending = "leave"
        self._hurry.set()
        self._beating.join()
        self._stop.set()
        self._judging.join()

    def abandon(self) -> None:
        """Stop without a goodbye."""
        self._ending = "abandon"
        self._hurry.set()
        self._stop.set()
        self._beating.join(timeout=self.beat)  # where process 0 is frozen, it waits with it
        self._judging.join()
        # The others may still be on their way to the same error: the store lives as long as the process.
        _abandoned.append(self._server)

    def _connect(self, port: int) -> TCPStore:
        # A launcher names process 0's machine as the processes can reach it; a group made otherwise is taken by name.
        here = len(set(self._hosts)) == 1
        host = os.environ.get("MASTER_ADDR") or ("localhost" if here else self._hosts[_MAIN])
        if self.rank == _MAIN:
            host = "localhost"
        try:
            return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=self.silent))
        except RuntimeError as error:  # torch's DistError
            reason = str(error).splitlines()[0]
            raise HereFailed(f"the watchdog cannot reach process 0 at {host}:{port}: {reason}") from None

    def _beat(self) -> None:
        """The only thread that uses the store; it may wait for ever where process 0 is frozen."""
        try:
            for count in itertools.count(1):
                ending = self._ending
                if ending == "abandon":
                    return
                if ending == "leave" and self.rank != _MAIN:
                    self._store.set(_key(self.rank), _GOODBYE)
                    return
                self._store.set(_key(self.rank), str(count))
                self._listen()
                if ending == "leave" and len(self._gone) == len(self._watched):
                    return
                if ending:
                    time.sleep(0.05)
                else:
                    self._hurry.wait(self.beat)
        except RuntimeError:  # torch's DistError: process 0 is gone, which `_judge` tells
            return

    def _listen(self) -> None:
        if self._verdict:
            self._store.set(_VERDICT, self._verdict)
        *beats, verdict = map(bytes.decode, self._store.multi_get([*map(_key, self._watched), _VERDICT]))
        if self.rank != _MAIN and verdict != _NONE:
            self._end(verdict)
        for rank, value in zip(self._watched, beats, strict=True):
            if value == _GOODBYE:
                self._gone.add(rank)
            elif self._heard.get(rank) != value:
                self._heard[rank], self._seen[rank] = value, time.monotonic()

    def _judge(self) -> None:
        period = min(self.beat, self.silent / 10)
        woken = time.monotonic()
        while not self._stop.wait(period):
            now = time.monotonic()
            if now - woken > self.silent / 3:
                self._seen.update(dict.fromkeys(self._watched, now))  # it was this process that paused
            woken = now
            for rank in self._watched:
                if rank not in self._gone and now - self._seen[rank] > self.silent:
                    self._verdict = (
                        f"process {rank} on {self._hosts[rank]} has given no sign of life for {self.silent:g} s"
                    )
                    if self.rank == _MAIN and len(self._watched) - len(self._gone) > 1:
                        time.sleep(2 * self.beat + self.silent / 10)  # until the others have read it
                    self._end(self._verdict)

    def _end(self, why: str) -> None:
        os.write(2, f"{self.program}: {why}; process {self.rank} ends\n".encode())
        os._exit(1)


def _serve() -> TCPStore:
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def _key(rank: int) -> str:
    return f"beat {rank}"
