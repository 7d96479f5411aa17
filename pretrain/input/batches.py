"""From encoded images to a batch of views; another image stands in for a damaged one, and a `Fault` says so."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import default_collate

from converters.errors import UserError
from pretrain.input.augment import ViewMaker
from pretrain.input.images import UNKNOWN_FORMAT

ATTEMPTS = 100
"""So many unreadable images in a row mean that the data set is out of reach, not that an image is damaged."""


class Fault(NamedTuple):
    """A damaged image, or a shard that cannot be read to its end, that was skipped."""

    where: str
    reason: str


class Batch(NamedTuple):
    """This process's share of a global batch, N images."""

    views: tuple[Tensor, ...]
    """What the view maker gave, stacked: N×…"""
    number: Tensor
    """N int64: the image's place among the source's files, or the hash of its name for shards."""
    faults: tuple[Fault, ...]
    """What was skipped since the batch before: an image is told where it was due, a shard where reading it failed."""


class Item(NamedTuple):
    """An image before it is decoded."""

    file: Path | bytes
    where: str
    number: int
    turn: int
    """How many passes over the data set the epoch had begun before: 0 but for an epoch longer than a pass."""


class Feed(Protocol):
    """What gives a loading process its batches."""

    steps: int

    def batches(self, epoch: int, start: int, lane: int, lanes: int) -> Iterator[Batch]:
        """The batches from `start` on that belong to `lane`: those whose number leaves `lane` divided by `lanes`."""


@dataclass(frozen=True)
class Share:
    """A process's part of each global batch."""

    images: int
    """Of an epoch."""
    batch_size: int
    rank: int
    world: int

    @property
    def size(self) -> int:
        """N, images of a batch in this process."""
        return self.batch_size // self.world

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return self.images // self.batch_size


class Views:
    """Items -> a batch."""

    def __init__(self, view_maker: ViewMaker) -> None:
        self.view_maker = view_maker

    def batch(self, candidates: Sequence[Iterator[Item]], epoch: int, faults: list[Fault]) -> Batch:
        """A batch with one image of each iterator: its first that is not damaged.

        Raises:
            UserError: if none is readable of an iterator's images, of which at most `ATTEMPTS` are tried.
        """
        views, numbers = [], []
        for items in candidates:
            made, number = self._first(items, epoch, faults)
            views.append(made)
            numbers.append(number)
        return Batch(tuple(default_collate(views)), torch.tensor(numbers, dtype=torch.int64), tuple(faults))

    def _first(self, items: Iterator[Item], epoch: int, faults: list[Fault]) -> tuple[tuple[Tensor, ...], int]:
        tried: list[Fault] = []
        for item in items:
            made = self._made(item, epoch)
            if not isinstance(made, Fault):
                faults.extend(tried[:1])  # a damaged stand-in is told in its own turn
                return made, item.number
            tried.append(made)
            if len(tried) == ATTEMPTS:
                break
        raise out_of_reach(tried[-1], len(tried))

    def _made(self, item: Item, epoch: int) -> tuple[Tensor, ...] | Fault:
        file = io.BytesIO(item.file) if isinstance(item.file, bytes) else item.file
        try:
            # Pillow warns of odd metadata and of large images, which harms no view, once an image: a flood.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")
                with Image.open(file) as image:
                    return self.view_maker(image, epoch, draw_number(item))
        except UnidentifiedImageError:
            return Fault(item.where, UNKNOWN_FORMAT)  # its own text holds an address in memory
        except Exception as error:
            # Pillow's decoders raise nearly anything for a damaged file, as TypeError for a TIFF of wrong tags.
            return Fault(item.where, " ".join(str(error).split()) or type(error).__name__)


def out_of_reach(last: Fault, tried: int) -> UserError:
    """The error for images that are all unreadable."""
    return UserError(
        expected="images that can be read",
        found=f"{tried} in a row that cannot, the last because: {last.reason}",
        where=last.where,
        cure="check that the data is whole and its disk or network is in reach",
    )


def draw_number(item: Item) -> int:
    """What a view's draws come from: the image's number, or another where the epoch shows the image once more."""
    if item.turn == 0:
        return item.number
    return hash63(str(item.number), str(item.turn))


def hash63(*parts: str) -> int:
    """A stable hash of names, from 0 to 2**63 - 1."""
    text = "\0".join(parts).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
