"""WebDataset tar shards: which ones a data set holds. Loads no torch.

They lie on a local disk or behind any fsspec URL. `moco-transfer data pack` writes `shards.json` beside them, which
says how many images each holds; shards of other tools have none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeVar

from pydantic import Field

from converters.dataset_fingerprint import is_image, listed
from converters.errors import MissingPackage, UserError
from converters.settings import Settings, nearest, parse

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

INDEX = "shards.json"
ENDING = ".tar"
_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_LOOKUPS = 32
"""Requests at the same time for the sizes of listed shards."""


class PackedShard(Settings):
    """A line of the index."""

    name: str
    images: int = Field(ge=0)
    bytes: int = Field(ge=0)


class PackedSource(Settings):
    """What was packed."""

    images: int
    fingerprint: str
    """See `converters.dataset_fingerprint`."""
    sample: bool


class DamagedImage(Settings):
    """An image that was left out."""

    name: str
    reason: str


class ShardIndex(Settings):
    """`shards.json`."""

    version: Literal[1] = Field(alias="schema")
    packer: str
    """What wrote the shards, with its version."""
    images: int = Field(ge=0)
    shard_images: int
    size: int
    """Longest shorter side, pixels."""
    quality: int
    """Of the JPEGs that were encoded anew."""
    source: PackedSource
    damaged: tuple[DamagedImage, ...]
    shards: tuple[PackedShard, ...]


class Shard(NamedTuple):
    """One tar file."""

    url: str
    name: str
    """Below the folder that holds all of them: the same wherever that lies."""
    images: int | None
    """How many it holds, where that is known."""


@dataclass(frozen=True)
class Shards:
    """Tar shards, in the order of their names."""

    where: str
    """The source as messages name it."""
    shards: tuple[Shard, ...]
    fingerprint: str
    """sha256 over names and sizes of the shards, and `shards.json` where there is one."""
    sample: bool
    """True for packed sample data."""

    @property
    def count(self) -> int | None:
        """How many images there are, where `shards.json` says so."""
        counts = [shard.images for shard in self.shards if shard.images is not None]
        return sum(counts) if len(counts) == len(self.shards) else None

    @classmethod
    def open(cls, places: str | Sequence[str], where: str | None = None) -> Self:
        """Find the shards.

        Args:
            places: a shard, a folder of shards, or a pattern such as `s3://bucket/train-{000000..000146}.tar` or
                `shards/*.tar`; or several of them.
            where: how messages name the source.

        Raises:
            UserError: if there is none, one is named twice, or `shards.json` does not fit them.
            MissingPackage: if the URL's protocol needs a package that is not installed.
        """
        places = [places] if isinstance(places, str) else list(places)
        where = where or places[0]
        sizes: dict[str, int] = {}
        for url, size in _found(places):
            if url in sizes:
                raise UserError(expected="each shard once", found=f"{url} twice", where=where, cure="name it once")
            sizes[url] = size
        folder, names = _names(list(sizes))
        order = sorted(sizes, key=lambda url: names[url].split("/"))
        digest = listed((names[url], sizes[url]) for url in order)
        index: ShardIndex | None = None
        if not any("/" in name for name in names.values()) and (text := _index_text(folder)) is not None:
            digest.update(text)
            path = f"{folder}/{INDEX}"
            index = parse_index(text, path)
            all_of_them = len(places) == 1 and is_folder(places[0])
            _check_fit(index, path, set(names.values()), all_of_them=all_of_them)
        counts = {packed.name: packed.images for packed in index.shards} if index else {}
        shards = tuple(Shard(url, names[url], counts.get(names[url])) for url in order)
        if index and not any(shard.images for shard in shards):
            raise UserError(expected="shards with images", found=f"none, as {INDEX} says", where=where)
        return cls(where, shards, digest.hexdigest(), sample=index is not None and index.source.sample)


def is_pattern(text: str) -> bool:
    """Whether a place that does not exist under this very name is a URL or a pattern of shards."""
    return "://" in text or "::" in text or bool(_GLOB.search(text) or _BRACES.search(text))


def holds_shards(folder: Path) -> bool:
    """Whether a local folder is one of shards: with an index, or with tar files and neither images nor folders.

    Archives beside the class folders that were unpacked from them are no shards.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    names = [entry.name for entry in entries]
    if not any(name.endswith(ENDING) for name in names):
        return False
    return INDEX in names or not any(is_image(entry.name) or entry.is_dir() for entry in entries)


def is_folder(place: str) -> bool:
    """Whether a place is a folder, here or behind a URL."""
    system, path = file_system(place.rpartition("::")[2])
    return bool(_asked(place, lambda: system.isdir(path)))


def lines_of(url: str) -> list[str] | None:
    """The lines of a text list behind a URL; None if the URL is a shard, a folder or a pattern.

    Raises:
        UserError: if there is nothing, or no text.
    """
    if url.endswith(ENDING) or _GLOB.search(url) or _BRACES.search(url) or is_folder(url):
        return None
    system, path = file_system(url.rpartition("::")[2])
    try:
        return str(_asked(url, lambda: system.cat_file(path)).decode("utf-8-sig")).splitlines()
    except UnicodeDecodeError:
        raise UserError(
            expected=f"tar shards ({ENDING}) or a list of them, one a line",
            found="other bytes",
            where=url,
            cure="check the URL given as --data",
        ) from None


def expand(pattern: str) -> Iterator[str]:
    """The texts that a shell's braces stand for: `{000..146}` counts, `{train,val}` lists.

    Raises:
        UserError: for braces that do neither.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    inside = braces.group(1)
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers:
        first, last = numbers.groups()
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        options = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        options = inside.split(",")
    if not options or (numbers is None and len(options) < 2):
        raise UserError(
            expected="braces that count up, {000..146}, or list, {train,val}", found=braces.group(), where=pattern
        )
    for option in options:
        yield from expand(pattern[: braces.start()] + option + pattern[braces.end() :])


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL or local path, and the path in it.

    Raises:
        MissingPackage: if the protocol's driver is not installed.
        UserError: if there is no such protocol.
    """
    # Only here: a plan of a run needs it for shards alone, and a worker must make its own after the fork.
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0]
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or known_implementations[protocol]["class"].partition(".")[0]
        raise MissingPackage(package, f"pip install {package}", f"{protocol}:// URLs") from None
    except ValueError:
        raise UserError(
            expected="a URL whose protocol fsspec knows",
            found=repr(protocol),
            where=url,
            cure=nearest(protocol, known_implementations),
        ) from None
    return system, path


def parse_index(text: bytes, where: str) -> ShardIndex:
    """Read `shards.json`.

    Raises:
        UserError: if it is none of ours.
    """
    try:
        data: object = json.loads(text)
    except ValueError as error:
        raise UserError(expected="an index of shards", found=f"no JSON ({error})", where=where) from None
    return parse(ShardIndex, data, where)


def _found(places: Sequence[str]) -> Iterator[tuple[str, int]]:
    """URL and size of each shard."""
    named: list[str] = []
    for place in places:
        here = "://" not in place and Path(place).exists()  # a file's own name may hold brackets
        for text in [place] if here else expand(place):
            pattern = not here and _GLOB.search(text) is not None
            if text.endswith(ENDING) and not pattern:
                named.append(text)
            elif pattern or is_folder(text):
                yield from _listing(text, pattern=pattern)
            else:
                raise _none(text, "another file" if _exists(text) else "nothing")
    # One by one, because most stores list a folder only whole; so many at the same time, because each is a request.
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        yield from pool.map(_looked_up, named)


def _listing(place: str, *, pattern: bool) -> list[tuple[str, int]]:
    """The shards that a pattern with wildcards or a folder holds."""
    chain, colons, inner = place.rpartition("::")
    system, path = file_system(inner)
    if pattern:
        found = _asked(place, lambda: system.glob(path, detail=True)).values()
    else:
        found = _asked(place, lambda: system.ls(path, detail=True))
    files = [
        (chain + colons + _url(system, info["name"]), int(info["size"]))
        for info in found
        if info["type"] == "file" and info["name"].endswith(ENDING) and not Path(info["name"]).name.startswith(".")
    ]
    if not files:
        raise _none(place, "none")
    return files


def _looked_up(place: str) -> tuple[str, int]:
    chain, colons, inner = place.rpartition("::")
    system, path = file_system(inner)
    info = _asked(place, lambda: system.info(path))
    return chain + colons + _url(system, info["name"]), int(info["size"] or 0)


def _url(system: AbstractFileSystem, path: str) -> str:
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return path if "file" in protocols else str(system.unstrip_protocol(path))


def _exists(place: str) -> bool:
    system, path = file_system(place.rpartition("::")[2])
    return bool(_asked(place, lambda: system.exists(path)))


def _asked(place: str, ask: Callable[[], T]) -> T:
    """An answer of a file system, whose drivers raise errors of their own kinds.

    Raises:
        UserError: if it has none.
    """
    try:
        return ask()
    except FileNotFoundError:
        raise _none(place, "nothing") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _none(place, f"no answer ({reason})") from None


def _none(place: str, found: str) -> UserError:
    return UserError(expected=f"tar shards ({ENDING})", found=found, where=place, cure="check the path given as --data")


def _names(urls: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The folder that holds all, and the shards' names below it."""
    folders = [url.split("/")[:-1] for url in urls]
    common = folders[0]
    for folder in folders[1:]:
        length = next(
            (place for place, (one, other) in enumerate(zip(common, folder, strict=False)) if one != other),
            min(len(common), len(folder)),
        )
        common = common[:length]
    return "/".join(common), {url: "/".join(url.split("/")[len(common) :]) for url in urls}


def _index_text(folder: str) -> bytes | None:
    system, path = file_system(f"{folder.rpartition('::')[2]}/{INDEX}")
    try:
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise UserError(
            expected=f"{INDEX}, or none",
            found=f"no answer ({' '.join(str(error).split()) or type(error).__name__})",
            where=folder,
        ) from None


def _check_fit(index: ShardIndex, path: str, names: set[str], *, all_of_them: bool) -> None:
    packed = {shard.name for shard in index.shards}
    if unknown := sorted(names - packed):
        raise UserError(
            expected="shards that the index names",
            found=f"{unknown[0]}, which it does not",
            where=path,
            cure="remove the shard, or the index (then say --set epoch_images=N)",
        )
    if all_of_them and (missing := sorted(packed - names)):
        raise UserError(
            expected=f"all {len(packed)} shards of the index",
            found=f"{len(missing)} missing, first {missing[0]}",
            where=path,
            cure="copy the rest, or name those that are there by a pattern",
        )
