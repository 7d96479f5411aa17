"""Read strangers' files: nothing in them is executed, and whatever is wrong with one is said in one line.

Each container is looked over twice, by different means. First a census (`converters.census`) follows the bytes without
building anything, and refuses what would execute, hang, overflow or allocate more than the file holds. Then the
container's own reader reads it, restricted again: `torch.load(weights_only=True)`, safetensors, or the unpickler of
`converters.arrays`.
"""

from __future__ import annotations

import mmap
import re
import stat
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from converters import arrays
from converters.census import archive, header
from converters.census.limits import MAX_PICKLE_BYTES, Refused, clip, not_admitted
from converters.census.machine import Machine
from converters.census.rules import ARRAY_NAMES, ArrayRules
from converters.census.tensor_rules import TensorRules, is_dictionary
from converters.census.things import Tally
from converters.errors import UserError
from converters.hashing import sha256_later, sha256_of
from converters.stand_ins import Dictionary, Unread

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""torch's magic number as a pickle, with which every file begins that torch wrote before 1.6."""
_LEGACY_VERSION = 1001
_OTHERS = {
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
    b"BZh": ("a bzip2 archive", "unpack it"),
    b"\x89HDF": ("an HDF5 file, as Keras writes", None),
    b"version https://git-lfs": ("a pointer of git LFS instead of the file", "fetch the file with: git lfs pull"),
    b"<!doctype html": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
}
"""How files begin that are taken for checkpoints, in lower case."""
_TORCH_LOCK = threading.Lock()
"""torch keeps the stand-ins of a load in one place for all threads."""


@dataclass(frozen=True)
class CheckpointFile:
    """A file's content, as it was found."""

    path: Path
    content: Any
    """What was saved: in practice a dict of tensors, or a dict with such a dict below one of its keys. A pickle's are
    NumPy arrays, whose names are strings, Python 2's too."""
    digest: Future[str] | None = None
    """The file's sha256 on its way."""

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes (hex)."""
        return self.digest.result() if self.digest else sha256_of(self.path)


def load(path: Path, *, hashed: bool = False) -> CheckpointFile:
    """Read a checkpoint written by torch (any version's format), safetensors, or a pickle of NumPy arrays.

    The bytes decide what it is, not the file name. Tensors of a zip-format checkpoint are mapped from disk: copy what
    is kept. Objects of a few classes that stand beside weights in many checkpoints, as `argparse.Namespace`, become
    empty ones; see `converters.census.tensor_rules`.

    Args:
        path: the file.
        hashed: its sha256 will be asked for: it is computed at the same time.

    Raises:
        UserError: if the file is absent, no regular file, empty, damaged, no checkpoint, holds more than tensors,
            arrays and plain data, or claims more than its bytes hold.
    """
    head = head_of(path)
    digest = sha256_later(path) if hashed else None
    try:
        content = _reader(head, path.stat().st_size)(path)
    except Refused as error:
        raise UserError(expected=error.expected, found=error.found, where=path, cure=error.cure) from None
    except OSError as error:
        raise UserError(expected="a readable file", found=error.strerror or str(error), where=path) from None
    return CheckpointFile(path, content, digest)


def head_of(path: Path) -> bytes:
    """The first 64 bytes of a file, by which its kind is told.

    Raises:
        UserError: if the file is absent, no regular file, empty or cannot be opened.
    """
    try:
        # Before it is opened: opening a pipe waits for its writer.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(expected="a file", found="a pipe, socket or device", where=path)
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        found = "a link to a file that is not there" if path.is_symlink() else "no such file"
        raise UserError(expected="a checkpoint", found=found, where=path, cure="check the path") from None
    except IsADirectoryError:
        raise UserError(expected="a checkpoint", found="a folder", where=path, cure="name the file in it") from None
    except (OSError, ValueError) as error:
        found = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(expected="a readable file", found=found, where=path) from None
    if not head:
        raise UserError(expected="a checkpoint", found="an empty file", where=path)
    return head


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins so is a pickle of arrays, if anything."""
    return _PICKLE.match(head) is not None and not head.startswith(_LEGACY)


def _reader(head: bytes, size: int) -> Callable[[Path], Any]:
    if head.startswith(_ZIP):
        return _zip
    if head.startswith(_LEGACY):
        return _legacy
    if is_pickle(head):
        return _arrays
    if header.looks_like(head, size):
        return _safetensors
    for start, (found, cure) in _OTHERS.items():
        if head.lower().startswith(start.lower()):
            raise Refused("a checkpoint", found, cure)
    raise Refused(
        "a checkpoint written by torch or safetensors, or a pickle of arrays",
        f"another or damaged file (it begins with {clip(head[:8])})",
    )


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _safetensors(path: Path) -> Any:
    header.check(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Refused("a whole safetensors file", f"a damaged one ({_first_line(error)})") from None


def _arrays(path: Path) -> Any:
    with _mapped(path) as data:
        machine = Machine(data, ArrayRules(tally := Tally(), len(data)), tally, protocols=(2, 3, 4, 5))
        machine.run()
        if machine.position != len(data):
            raise Refused("one pickle of arrays", f"{len(data) - machine.position:,} more bytes after it")
    try:
        with path.open("rb") as file:
            return arrays.load(file)
    except OSError:
        raise
    except Exception as error:
        raise _unreadable(error, "a pickle of arrays") from None


def _zip(path: Path) -> Any:
    with path.open("rb") as file, _mapped(path) as data:
        entries = archive.entries(data)
        pickle = entries["data.pkl"]
        if pickle.size > MAX_PICKLE_BYTES:
            raise Refused(f"a pickle of at most {MAX_PICKLE_BYTES:,} bytes in the archive", f"one of {pickle.size:,}")
        order = entries.get("byteorder")
        if order is not None and data[order.offset : order.offset + min(order.size, 16)] != b"little":
            raise Refused("little-endian numbers", "another byte order")
        archive.check_sum(file, "data.pkl", pickle)
        rules = TensorRules(tally := Tally(), len(data), views=False)
        Machine(data[pickle.offset : pickle.offset + pickle.size], rules, tally).run()
        for key, storage in rules.storages.items():
            entry = entries.get(f"data/{key}")
            if entry is None or entry.size != storage.size:
                found = "none" if entry is None else f"one of {entry.size:,}"
                raise Refused(f"an entry of {storage.size:,} bytes for the storage {clip(key)}", found)
            archive.check_sum(file, f"data/{key}", entry)
    return _by_torch(path, rules, mapped=True)


def _legacy(path: Path) -> Any:
    with _mapped(path) as data:
        rules = TensorRules(tally := Tally(), len(data), views=True)
        position = len(_LEGACY)
        values = []
        for _ in ("version", "system", "content", "keys"):
            machine = Machine(data, rules, tally, position)
            values.append(machine.run())
            position = machine.position
        if values[0] != _LEGACY_VERSION:
            raise Refused(f"torch's format {_LEGACY_VERSION}", f"the format {clip(values[0])}")
        _check_storages(data, position, rules, getattr(values[3], "parts", None))
        if _is_tar(data[:512]):
            raise Refused("a checkpoint", "one that is a tar archive at the same time")
    return _by_torch(path, rules, mapped=False)


def _check_storages(data: mmap.mmap, position: int, rules: TensorRules, keys: object) -> None:
    """In the format before 1.6 torch allocates each storage as the pickle says: prove that its values follow."""
    own = {key: storage for key, storage in rules.storages.items() if not storage.view_of}
    if not isinstance(keys, list) or len(keys) != len(own) or set(map(str, keys)) != own.keys():
        raise Refused("a list of the storages after the pickle", "another")
    for key in keys:
        storage = own[key]
        items = int.from_bytes(data[position : position + 8], "little")
        position += 8 + storage.size
        if items != storage.items or position > len(data):
            raise Refused(
                f"{storage.items:,} values in the storage {clip(key)}",
                "fewer: the file is truncated" if position > len(data) else f"{items:,}",
            )
    if position != len(data):
        raise Refused("nothing after the storages", f"{len(data) - position:,} more bytes")


def _is_tar(head: bytes) -> bool:
    """Before it reads the old format, torch tries Python's tar reader first, which a header can keep busy."""
    try:
        tarfile.TarInfo.frombuf(head, "latin1", "strict")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _by_torch(path: Path, rules: TensorRules, *, mapped: bool) -> Any:
    stand_ins: list[Any] = [(Dictionary if is_dictionary(name) else Unread, name) for name in rules.stand_ins]
    stand_ins += [(function, name) for name, function in arrays.ARRAY_FUNCTIONS.items()]
    stand_ins += [(arrays.ADMITTED["builtins.bytes"], "builtins.bytes")]
    # No pickle can name it, since it has a space.
    stand_ins += [(arrays.REBUILT, "an array")]
    try:
        with _TORCH_LOCK, torch.serialization.safe_globals(stand_ins):
            # Only the zip format can be mapped; the format before torch 1.6 cannot.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:
        raise _unreadable(error, "a checkpoint") from None
    return arrays.plain(content) if rules.names & ARRAY_NAMES.keys() else content


def _unreadable(error: Exception, what: str) -> Refused:
    """What a reader says of a file that the census let pass."""
    # A damaged pickle can raise nearly anything from inside an unpickler; each means the same to the user.
    if isinstance(error, arrays.ArrayError):
        return Refused("arrays of plain numbers over their bytes", str(error))
    if isinstance(error, arrays.NotAdmittedError):
        return not_admitted(str(error))
    blocked = re.search(r"(?:GLOBAL|[Uu]nsupported global:?(?: GLOBAL)?|class) `?([\w.]+\.\w+)", str(error))
    if blocked:
        return not_admitted(blocked.group(1))
    return Refused(f"{what} that can be read", f"a damaged one ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
