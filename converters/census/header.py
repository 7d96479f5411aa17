"""The header of a safetensors file: eight bytes of its length, then JSON (huggingface/safetensors, README, Format).

The safetensors library proves that offsets and shapes fit the file, without holes or overlaps. It takes the last of two
equal names and headers of 100 MB: these are refused here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converters.census.limits import MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_TENSORS, Refused, clip, too_many


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins so may be safetensors: told from `head`, 9 bytes or more."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def check(path: Path) -> None:
    """Look a header over before the library reads it.

    Raises:
        Refused: for one that is too long, no JSON, names a tensor twice, or names too many.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise Refused(f"a safetensors header of at most {MAX_HEADER_BYTES:,} bytes", f"one of {length:,}")
        text = file.read(length)
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Refused("a whole safetensors file", "a damaged one (its header is no JSON)") from None
    if not isinstance(content, dict):
        raise Refused("a whole safetensors file", "a damaged one (its header is no object)")
    if len(content) > MAX_TENSORS:
        raise too_many("tensors", MAX_TENSORS)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refused("every name once", f"{clip(name)} twice")
        if len(name) > MAX_NAME_BYTES:
            raise Refused(f"names of at most {MAX_NAME_BYTES} bytes", f"one of {len(name):,}")
        found[name] = value
    return found
