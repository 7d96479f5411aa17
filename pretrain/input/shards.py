"""WebDataset tar shards: which ones a data set holds. Loads no torch.

They lie on a local disk or behind any fsspec URL. `moco-transfer data pack` writes `shards.json` beside them, which
says how many images each holds; shards of other tools have none. Several packed folders can be used together.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field

from converters.dataset_fingerprint import is_image, listed
from converters.errors import UserError
from converters.settings import Settings, parse
from pretrain.input.shard_places import ENDING, content_of, found, is_folder

INDEX = "shards.json"


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
    """sha256 over names and sizes of the shards, and each `shards.json` beside them."""
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
        sizes: dict[str, int | None] = {}
        for url, size in found(places):
            if url in sizes:
                raise UserError(expected="each shard once", found=f"{url} twice", where=where, cure="name it once")
            sizes[url] = size
        names = _names(list(sizes))
        order = sorted(sizes, key=lambda url: names[url].split("/"))
        digest = listed((names[url], sizes[url] or 0) for url in order)
        counts: dict[str, int] = {}
        sample = False
        all_of_them = len(places) == 1 and is_folder(places[0])
        for folder in dict.fromkeys(_folder(url) for url in order):
            path = f"{folder}/{INDEX}"
            if (text := content_of(path)) is None:
                continue
            digest.update(text)
            index = parse_index(text, path)
            here = {url.removeprefix(f"{folder}/"): url for url in order if _folder(url) == folder}
            _check_fit(index, path, set(here), all_of_them=all_of_them)
            _check_sizes(index, {name: (url, sizes[url]) for name, url in here.items()})
            counts |= {here[packed.name]: packed.images for packed in index.shards if packed.name in here}
            sample = sample or index.source.sample
        shards = tuple(Shard(url, names[url], counts.get(url)) for url in order)
        if len(counts) == len(shards) and not any(counts.values()):
            raise UserError(expected="shards with images", found=f"none, as {INDEX} says", where=where)
        return cls(where, shards, digest.hexdigest(), sample)


def holds_shards(folder: Path) -> bool:
    """Whether a local folder is one of shards: with an index, or with tar files and neither images nor folders.

    Archives beside the class folders that were unpacked from them are no shards.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    names = [entry.name for entry in entries]
    if not any(name.endswith(ENDING) for name in names):
        return False
    return INDEX in names or not any(is_image(entry.name) or entry.is_dir() for entry in entries)


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


def _folder(url: str) -> str:
    return url.rpartition("/")[0]


def _names(urls: Sequence[str]) -> dict[str, str]:
    """The shards' names below the deepest folder that holds all."""
    folders = [_folder(url).split("/") for url in urls]
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    length = len(list(same))
    return {url: "/".join(url.split("/")[length:]) for url in urls}


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


def _check_sizes(index: ShardIndex, here: dict[str, tuple[str, int | None]]) -> None:
    for packed in index.shards:
        url, size = here.get(packed.name, ("", None))
        if size is not None and size != packed.bytes:
            raise UserError(
                expected=f"{packed.bytes} bytes, as {INDEX} says",
                found=str(size),
                where=url,
                cure="copy it again",
            )
