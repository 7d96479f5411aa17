"""sha256 of files, if need be while other work goes on."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future
from pathlib import Path

_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_later(path: Path) -> Future[str]:
    """The same in a thread of its own: hashing a block holds no lock of the interpreter's."""
    digest: Future[str] = Future()

    def work() -> None:
        try:
            digest.set_result(sha256_of(path))
        except BaseException as error:  # told to whoever asks for the result
            digest.set_exception(error)

    threading.Thread(target=work, name=f"sha256 of {path.name}", daemon=True).start()
    return digest
