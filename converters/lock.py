"""One process at a time: the second is refused, or waits for its turn."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from converters.errors import UserError
from converters.files import faults_of


@contextlib.contextmanager
def exclusive(folder: Path, work: str) -> Iterator[None]:
    """Hold `folder/.lock`, made if absent; the kernel lets go of it however this process ends.

    Args:
        folder: what is guarded.
        work: what is done there, for the message, as `run`.

    Raises:
        UserError: if another process holds it, or the folder cannot be made.
    """
    with faults_of(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened = (folder / ".lock").open("a")
        except (FileExistsError, NotADirectoryError):
            raise UserError(expected="a folder, or a place for one", found="a file", where=folder) from None
    with opened as file:
        # The lock lives as long as any copy of the open file: a forked child that outlives a killed run must have none.
        os.register_at_fork(after_in_child=file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                expected=f"no other {work} in this folder",
                found="one at work",
                where=folder,
                cure="wait for it, or give another folder with -o",
            ) from None
        yield


@contextlib.contextmanager
def in_turn(file: Path, work: str) -> Iterator[None]:
    """Hold the lock `file`, made if absent, once no other process does; the kernel lets go of it as for `exclusive`.

    The file stays: to remove it would let a third process in while a second waits at the old one.

    Args:
        file: what stands for the work.
        work: what the other process does meanwhile, for the line that says why this one waits.

    Raises:
        UserError, CheckFailed: where no file can be made (see `converters.files.faults_of`).
    """
    with faults_of(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a")
    with opened:
        os.register_at_fork(after_in_child=opened.close)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"waiting for another process that {work}\n")
            sys.stderr.flush()
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
