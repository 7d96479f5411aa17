"""The images of a WebDataset tar shard, read as a stream: no index is needed, and nothing is unpacked to disk."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tarfile import HeaderError, TarFile, TarInfo
from typing import IO, NamedTuple, Self

from converters.dataset_fingerprint import IMAGE_ENDINGS

_BLOCK = 1 << 18
"""Bytes asked of a file at once."""
_LARGEST = 1 << 28
"""Bytes of an image that are read into memory at most."""
META = re.compile(r"__[^/]*__($|/)")
"""WebDataset's own members."""
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
"""Key and ending: WebDataset cuts at the first dot of the base name; a hidden file is no sample."""


class Sample(NamedTuple):
    """The image of one key."""

    key: str
    member: str
    """Its name in the shard."""
    data: bytes


class TooLarge(NamedTuple):
    """An image that is not read into memory."""

    member: str
    size: int
    """Bytes."""


class CutOff(Exception):
    """A shard that ends before its end mark."""


class _Member(TarInfo):
    """A header that must be whole: tarfile takes a torn one for the end of the archive, and says nothing."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if (reason := _TORN.get(type(error).__name__)) is None:
                raise  # the end mark, or what tarfile reports itself
            raise CutOff(f"{reason} ({error})") from None


_TORN = {
    "EmptyHeaderError": "it ends without the end mark of a tar file",
    "TruncatedHeaderError": "it ends in the middle of a header",
    "InvalidHeaderError": "a header is damaged",
}
"""By name, because the type stubs leave these subclasses of `HeaderError` out."""


def samples(url: str, start: int = 0, stop: int | None = None) -> Iterator[Sample | TooLarge]:
    """The images number `start` to `stop` (from 0, exclusive) of a shard; what lies before is passed over unread.

    Consecutive members whose names are equal up to the first dot of the base name belong together. Of them, the first
    whose ending is that of an image counts (`a.jpg` before `a.mask.png`); a key without one is no sample.

    Raises:
        Exception: of whichever kind the driver, tarfile or the disk has, if it cannot be read to its end.
    """
    number, current = 0, ""
    found: Sample | TooLarge | None = None
    exact = False
    with _opened(url) as file, tarfile.open(fileobj=file, mode="r|", bufsize=_BLOCK, tarinfo=_Member) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would remember all of them; the stubs leave it out
            named = _MEMBER.fullmatch(member.name)
            if named is None or META.match(member.name) or not member.isfile():
                continue
            key, ending = named.groups()
            if key != current:
                if found is not None:
                    if number >= start:
                        yield found
                    number += 1
                    if number == stop:
                        return
                current, found, exact = key, None, False
            plain = f".{ending.lower()}" in IMAGE_ENDINGS
            if exact or not (plain or (found is None and f".{ending.rpartition('.')[2].lower()}" in IMAGE_ENDINGS)):
                continue
            exact = plain
            if number < start:
                found = TooLarge(member.name, member.size)  # only counted
            elif member.size > _LARGEST:
                found = TooLarge(member.name, member.size)
            else:
                content = tar.extractfile(member)
                assert content is not None, member.name  # it is a file
                found = Sample(key, member.name, content.read())
    if found is not None and number >= start:
        yield found


def _opened(url: str) -> AbstractContextManager[IO[bytes]]:
    if "://" not in url and "::" not in url:
        return Path(url).open("rb")
    import fsspec

    opened: AbstractContextManager[IO[bytes]] = fsspec.open(url, "rb")
    return opened
