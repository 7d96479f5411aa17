"""The directory of a zip archive as torch writes it: one folder of uncompressed entries, each once, none over another.

Read by its bytes (PKWARE's APPNOTE.TXT, 4.3), so that nothing is unpacked, and so strictly that torch's own reader,
which is lenient, sees the same entries.
"""

from __future__ import annotations

import mmap
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from converters.census.limits import MAX_ENTRIES, Refused, clip

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_BLOCK = 1 << 20
_UNKNOWN = 0xFFFFFFFF
_ENCRYPTED = 1
_UNIX = 3
_PICKLE = "data.pkl"


@dataclass(frozen=True)
class Entry:
    """Where an entry's bytes lie in the file."""

    offset: int
    size: int
    crc: int
    """CRC-32 of the bytes; 0 where the writer took none, as torch can be told."""


@dataclass(frozen=True)
class _Row:
    """An entry of the directory."""

    name: str
    start: int
    size: int
    packed: int
    flags: int
    method: int
    crc: int


def entries(data: mmap.mmap) -> dict[str, Entry]:
    """The entries of an archive written by `torch.save`, by their names below its one folder.

    Raises:
        Refused: if it is damaged, another kind of zip, or has entries that are compressed, encrypted, links, named
            twice, named out of the archive, or that overlap.
    """
    try:
        return _entries(data)
    except (struct.error, UnicodeDecodeError, IndexError):
        raise _damaged("a directory that does not fit") from None


def check_sum(file: BinaryIO, name: str, entry: Entry) -> None:
    """Hold an entry's bytes against their checksum, which torch's reader does not: a flipped bit is another weight.

    Raises:
        Refused: if they are not those that were written.
    """
    file.seek(entry.offset)
    left, found = entry.size, 0
    # In blocks: of a mapped file, every page that was read would count as memory.
    while left and (block := file.read(min(left, _BLOCK))):
        found = zlib.crc32(block, found)
        left -= len(block)
    if entry.crc not in (0, found):
        raise Refused(
            f"{clip(name)} with the checksum {entry.crc:08x}", f"{found:08x}: the file was damaged", "fetch it anew"
        )


def _damaged(reason: str) -> Refused:
    return Refused("a whole checkpoint", f"a damaged one ({reason})")


def _entries(data: mmap.mmap) -> dict[str, Entry]:
    count, position, end = _directory(data)
    if count > MAX_ENTRIES:
        raise Refused(f"a zip archive of at most {MAX_ENTRIES:,} entries", f"one of {count:,}")
    rows: list[_Row] = []
    for _ in range(count):
        (
            signature,
            made_by,
            _,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            size,
            name_size,
            extra_size,
            comment,
            _,
            _,
            mode,
            start,
        ) = _ENTRY.unpack_from(data, position)
        position += _ENTRY.size
        if signature != b"PK\x01\x02" or position + name_size + extra_size + comment > end:
            raise _damaged("an entry of its directory")
        name = data[position : position + name_size].decode("utf-8")
        extra = data[position + name_size : position + name_size + extra_size]
        position += name_size + extra_size + comment
        size, packed, start = _wide(extra, size, packed, start)
        _check_name(name)
        if (made_by >> 8 == _UNIX or mode >> 16) and stat.S_IFMT(mode >> 16) not in (0, stat.S_IFREG):
            raise Refused("files in a zip archive", f"a link or folder, {clip(name)}")
        rows.append(_Row(name, start, size, packed, flags, method, crc))
    if position != end:
        raise _damaged("a directory of another size than it says")
    names = [row.name for row in rows]
    top = _top(names)
    _check_once(names)
    found = {row.name.removeprefix(top): _located(data, row) for row in rows}
    _check_apart(found, end)
    return found


def _directory(data: mmap.mmap) -> tuple[int, int, int]:
    """Count of entries, start and end of the directory."""
    tail = len(data) - _END.size
    if tail < 0 or data[tail : tail + 4] != b"PK\x05\x06":
        raise Refused("a whole checkpoint", "a truncated one (no zip directory at its end)")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(data, tail)
    end = tail
    locator = tail - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        _, disk_64, end, _ = _LOCATOR.unpack_from(data, locator)
        if end + _END_64.size != locator or data[end : end + 4] != b"PK\x06\x06":
            raise _damaged("no zip64 directory where it should be")
        _, _, _, _, disk, first_disk, here, count, size, start = _END_64.unpack_from(data, end)
        disk |= disk_64
    if comment or disk or first_disk or here != count or start + size != end:
        raise _damaged("a directory that is not at its place")
    return count, start, end


def _wide(extra: bytes, size: int, packed: int, start: int) -> tuple[int, int, int]:
    """The same with numbers of 64 bits where those of 32 are full (APPNOTE 4.5.3)."""
    fields = [size, packed, start]
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            at = position + 4
            for number, value in enumerate(fields):
                if value == _UNKNOWN:
                    (fields[number],) = struct.unpack_from("<Q", extra, at)
                    at += 8
            break
        position += 4 + length
    return fields[0], fields[1], fields[2]


def _check_name(name: str) -> None:
    parts = name.split("/")
    if "\\" in name or "\0" in name or ":" in parts[0] or parts[0] == "" or not {".", ".."}.isdisjoint(parts):
        raise Refused("relative names in a zip archive", clip(name))


def _top(names: list[str]) -> str:
    """The one folder."""
    top = names[0].partition("/")[0] + "/" if names else ""
    if f"{top}{_PICKLE}" not in names:
        found = f"another kind of zip (with {clip(names[0])})" if names else "an empty zip"
        raise Refused("a zip archive written by torch.save", found)
    if f"{top}constants.pkl" in names or any(name.startswith(f"{top}code/") for name in names):
        raise Refused(
            "a checkpoint",
            "a TorchScript archive, which holds code",
            "save its state dict alone, where you trust the file: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )
    for name in names:
        if not name.startswith(top):
            raise Refused(f"entries in the folder {clip(top)} of the zip archive", clip(name))
    return top


def _check_once(names: list[str]) -> None:
    # torch's reader takes names that differ in their case for the same.
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise Refused("every entry of a zip archive once", f"{clip(name)} twice")
        seen.add(name.lower())


def _located(data: mmap.mmap, row: _Row) -> Entry:
    name = clip(row.name)
    if row.flags & _ENCRYPTED:
        raise Refused("a zip archive that is not encrypted", f"{name} encrypted")
    if row.method or row.size != row.packed:
        raise Refused(
            "uncompressed entries, as torch.save writes them",
            f"{name} compressed",
            "load and save it anew with torch.save, where you trust it",
        )
    signature, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(data, row.start)
    at = row.start + _LOCAL.size
    same_name = data[at : at + name_size] == row.name.encode()
    if signature != b"PK\x03\x04" or not same_name or method or flags & _ENCRYPTED:
        raise _damaged(f"the header of {name}")
    return Entry(at + name_size + extra_size, row.size, row.crc)


def _check_apart(found: dict[str, Entry], end: int) -> None:
    last, before = 0, ""
    for name, entry in sorted(found.items(), key=lambda item: item[1].offset):
        if entry.offset < last:
            raise Refused("entries of a zip archive beside each other", f"{clip(name)} over {clip(before)}")
        last, before = entry.offset + entry.size, name
    if last > end:
        raise _damaged(f"{clip(before)} longer than the file")
