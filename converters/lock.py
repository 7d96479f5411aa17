"""One process at a time in a folder of results."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from converters.errors import UserError


@contextlib.contextmanager
def exclusive(folder: Path, work: str) -> Iterator[None]:
    """Hold `folder/.lock`, made if absent; the kernel lets go of it however this process ends.

    Args:
        folder: what is guarded.
        work: what is done there, for the message, as `run`.

    Raises:
        UserError: if another process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(expected="a folder, or a place for one", found="a file", where=folder) from None
    with (folder / ".lock").open("a") as file:
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
