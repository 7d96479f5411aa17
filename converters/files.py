"""Files that are whole or absent: written to a temporary name, flushed, renamed; and one line where that fails."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from converters.errors import CheckFailed, UserError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""The place is right, but the disk (or a quota) does not take the bytes."""


@contextlib.contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Say in one line why `path` cannot be written.

    Wraps nothing but writing: torch and safetensors report a full disk as `RuntimeError` and `SafetensorError`.

    Raises:
        UserError: where no file can be, as below another file.
        CheckFailed: for a disk that fills.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _DISK:
            raise CheckFailed(f"{path}: the file could not be written: {reason}") from None
        raise UserError(
            expected="a place where a file can be written", found=reason, where=path, cure="choose another"
        ) from None
    except (RuntimeError, SafetensorError) as error:
        raise CheckFailed(f"{path}: the file could not be written: {error}") from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new, empty file beside `path` to write to; it becomes `path` when the block ends, and is removed if that fails.

    Raises:
        UserError, CheckFailed: see `faults_of`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with faults_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.touch()
            yield partial
            move(partial, path)
            sync_folder(path.parent)
        except BaseException:
            # What fails here must not hide why the writing failed.
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def move(source: Path, destination: Path) -> None:
    """Rename a file within one disk, its bytes first."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(destination)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some file systems cannot flush a folder; the renames themselves have happened.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
