"""Where tar shards lie: on a local disk or behind any fsspec URL, named one by one, by a pattern or by their folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from converters.dataset_fingerprint import is_image
from converters.errors import MissingPackage, UserError
from converters.settings import nearest

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

ENDING = ".tar"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_LOOKUPS = 32
"""Requests at the same time for the sizes of listed shards."""


def found(places: Sequence[str]) -> Iterator[tuple[str, int | None]]:
    """URL and size in bytes of each shard; None where a server does not say the size.

    Raises:
        UserError: if a place holds none, or does not answer.
        MissingPackage: see `file_system`.
    """
    named: list[str] = []
    for place in places:
        # A file's own name may hold brackets.
        here = "://" not in place and os.path.exists(place)  # noqa: PTH110 - Path's fails for a long pattern
        for text in [place] if here else expand(place):
            pattern = not here and _GLOB.search(text) is not None
            if text.endswith(ENDING) and not pattern:
                named.append(text)
            elif pattern or is_folder(text):
                yield from _listing(text, pattern=pattern)
            else:
                raise _other(text) if _exists(text) else _none(text, "nothing")
    # One by one, because most stores list a folder only whole; so many at the same time, because each is a request.
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        yield from pool.map(_looked_up, named)


def _listing(place: str, *, pattern: bool) -> list[tuple[str, int | None]]:
    """The shards that a pattern with wildcards or a folder holds."""
    chain, _, inner = place.rpartition("::")
    system, path = file_system(inner)
    if pattern:
        infos = _asked(place, lambda: system.glob(path, detail=True)).values()
    else:
        infos = _asked(place, lambda: system.ls(path, detail=True))
    files = [
        (_url(chain, system, info["name"]), _size(info))
        for info in infos
        if info["type"] == "file" and info["name"].endswith(ENDING) and not Path(info["name"]).name.startswith(".")
    ]
    if not files:
        others = [info["name"] for info in infos if info["type"] == "file"]
        raise next((_other(place, name) for name in others if _known(name)), _none(place, "none"))
    return files


def _looked_up(place: str) -> tuple[str, int | None]:
    chain, _, inner = place.rpartition("::")
    system, path = file_system(inner)
    info = _asked(place, lambda: system.info(path))
    return _url(chain, system, info["name"]), _size(info)


def _size(info: dict[str, Any]) -> int | None:
    return None if info["size"] is None else int(info["size"])


def _url(chain: str, system: AbstractFileSystem, path: str) -> str:
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    if chain:  # in which a path without its protocol would stand for nothing
        return f"{chain}::{system.unstrip_protocol(path)}"
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


def _known(name: str) -> bool:
    return is_compressed(name) or is_image(Path(name).name)


def _other(place: str, name: str | None = None) -> UserError:
    """The error for a place that names another file, or other files, as `name`."""
    name = name or place
    if is_compressed(name):
        return compressed(place)
    if is_image(Path(name).name):
        cure = "name the folder that holds the images, or write their paths into a list"
        return UserError(expected=f"tar shards ({ENDING})", found="images", where=place, cure=cure)
    return _none(place, "another file")


def is_compressed(name: str) -> bool:
    """Whether a file's name is that of a compressed tar file."""
    return name.lower().endswith(_COMPRESSED)


def compressed(place: str | Path) -> UserError:
    """The error for tar files that would have to be unpacked from their beginning on."""
    return UserError(
        expected=f"tar shards ({ENDING}), which are not compressed",
        found="compressed ones",
        where=place,
        cure="uncompress them, as with: gunzip",
    )


def is_pattern(text: str) -> bool:
    """Whether a place that does not exist under this very name is a URL or a pattern of shards."""
    return "://" in text or "::" in text or bool(_GLOB.search(text) or _BRACES.search(text))


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
    content = content_of(url)
    if content is None:
        raise _none(url, "nothing")
    try:
        return content.decode("utf-8-sig").splitlines()
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
        padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
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


def content_of(url: str) -> bytes | None:
    """A small file's bytes; None if there is none.

    Raises:
        UserError: if there is no answer.
    """
    system, path = file_system(url.rpartition("::")[2])
    try:
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        return None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(expected="a file, or none", found=f"no answer ({reason})", where=url) from None
