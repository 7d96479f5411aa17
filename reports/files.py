"""Files that are whole or absent: written under another name, flushed to the disk, then put in place in one step."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

TEMPORARY = ".tmp"
"""Ending of a file that is still being written; its name begins with a dot, and no reader looks at it."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_whole(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Put `content` at `path` so that a reader sees all of it or nothing, even if this process is killed.

    Args:
        path: in an existing folder.
        content: the bytes.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: if the file is there and may not be replaced.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        # The mode is cut down by the umask, as for any other new file: colleagues can read it on a shared disk.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _put_if_absent(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _put_if_absent(temporary: Path, path: Path) -> None:
    """A hard link, unlike a rename, fails if its target is there: of two writers exactly one wins."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # A file system without hard links: look first. Two writers in the same instant could both pass.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


def _flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system lets folders be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse it; the content itself is on the disk
    finally:
        os.close(descriptor)
