"""Read strangers' files: nothing in them is executed, and whatever is wrong with one is said in one line."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from converters.errors import UserError

_ZIP_MAGIC = b"PK\x03\x04"
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True)
class CheckpointFile:
    """A file's content, as it was found."""

    path: Path
    content: Any
    """What was saved: in practice a dict of tensors, or a dict with such a dict below one of its keys."""
    sha256: str
    """Of the file's bytes."""


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def load(path: Path) -> CheckpointFile:
    """Read a checkpoint written by torch (any version's format) or safetensors; the bytes decide, not the file name.

    Tensors of a zip-format checkpoint are mapped from disk: copy what is kept.

    Raises:
        UserError: if the file is absent, empty, truncated, no checkpoint, or holds more than tensors and plain data.
    """
    head = head_of(path)
    if _looks_like_safetensors(head, path.stat().st_size):
        try:
            content: Any = load_file(path)
        except SafetensorError as error:
            raise UserError(expected="a whole safetensors file", found=f"a damaged one ({error})", where=path) from None
        return CheckpointFile(path, content, sha256_of(path))
    is_zip = head.startswith(_ZIP_MAGIC)
    if is_zip and not zipfile.is_zipfile(path):
        raise UserError(
            expected="a whole checkpoint", found="a truncated one (no zip directory at its end)", where=path
        )
    try:
        # Only the zip format can be mapped; the format before torch 1.6 cannot.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        # A damaged pickle can raise nearly anything from inside the unpickler; each means the same to the user.
        raise _unreadable(path, error, is_zip=is_zip) from None
    return CheckpointFile(path, content, sha256_of(path))


def head_of(path: Path) -> bytes:
    """The first 16 bytes of a file, by which its kind is told.

    Raises:
        UserError: if the file is absent, empty or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise UserError(expected="a checkpoint", found="no such file", where=path, cure="check the path") from None
    except IsADirectoryError:
        raise UserError(expected="a checkpoint", found="a folder", where=path, cure="name the file in it") from None
    except OSError as error:
        raise UserError(expected="a readable file", found=error.strerror or str(error), where=path) from None
    if not head:
        raise UserError(expected="a checkpoint", found="an empty file", where=path)
    return head


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of header length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def _unreadable(path: Path, error: Exception, *, is_zip: bool) -> UserError:
    blocked = re.search(r"(?:GLOBAL|[Uu]nsupported global:?(?: GLOBAL)?|class) `?([\w.]+\.\w+)", str(error))
    if blocked:
        return UserError(
            expected="tensors and plain data only",
            found=f"a pickled {blocked.group(1)}, which only running its code could restore",
            where=path,
            cure="save its state dict alone, where you trust the file: torch.save({'state_dict': ...}, NEW)",
        )
    if is_zip:
        return UserError(expected="a whole checkpoint", found=f"a damaged one ({_first_line(error)})", where=path)
    return UserError(
        expected="a checkpoint written by torch or safetensors",
        found=f"another or damaged file ({_first_line(error)})",
        where=path,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
