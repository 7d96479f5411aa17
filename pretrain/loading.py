"""From images to batches of views: the same ones whenever seed and epoch are the same, also from an epoch's middle on.

A damaged image costs no batch: another stands in for it, and a `Fault` says so.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from converters.errors import UserError
from pretrain.augment import ViewMaker, stream
from pretrain.distributed import HereOnly, World
from pretrain.images import ImageFiles, Source
from pretrain.recipes import Recipe

T = TypeVar("T")

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
    """What was skipped since the batch before; where an image stands in for several, it may name one twice."""


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


class Loader:
    """Batches of a source's images for one process of a group.

    The loading processes live as long as this object. The global generators are neither read nor moved.

    Args:
        source: where the images come from.
        recipe: its `batch_size`, `epoch_images` and `workers` count.
        world: this process's place; it gets the `rank`-th part of each global batch.
        view_maker: image -> tensors; runs in the loading processes.
        seed: of the order; the view maker has its own.

    Raises:
        UserError: if an epoch holds no global batch, or its length is unknown.
    """

    images: int
    """Images of an epoch, over all processes; what is left over after the last whole batch is dropped."""
    steps: int
    """Global batches of an epoch."""
    layout: dict[str, int]
    """What must be equal for an epoch to be taken up in its middle; another epoch can begin under any other."""

    def __init__(self, source: Source, recipe: Recipe, world: World, view_maker: ViewMaker, *, seed: int) -> None:
        self.images = epoch_images(source, recipe)
        self.steps = self.images // recipe.batch_size
        workers = recipe.workers if recipe.workers is not None else _default_workers(world)
        share = Share(self.images, recipe.batch_size, world.rank, world.size)
        self.layout = {}
        self._position = RawArray("q", 2)  # epoch and start, in memory that the workers share
        self._loader: DataLoader[Batch | Stopped] = DataLoader(
            _Batches(FileFeed(source, share, Views(view_maker), seed), self._position),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=world.device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: the number of workers must not move the model's random stream
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (from 0) in order, from number `start` on.

        Raises:
            HereOnly: if the images are out of reach.
        """
        self._position[:] = [epoch, start]
        for batch in self._loader:
            if isinstance(batch, Stopped):
                raise HereOnly(expected=batch.expected, found=batch.found, where=batch.where, cure=batch.cure)
            # Pinning makes lists of plain tuples.
            yield Batch(tuple(batch.views), batch.number, tuple(batch.faults))


def epoch_images(source: Source, recipe: Recipe) -> int:
    """How many images count as an epoch.

    Raises:
        UserError: if that is unknown, or less than a global batch.
    """
    images = recipe.epoch_images or source.count
    if images is None:
        raise UserError(
            expected="shards whose number of images is known",
            found="no shards.json beside them",
            where=source.where,
            cure="say how many images count as an epoch: --set epoch_images=N",
        )
    if images < recipe.batch_size:
        raise UserError(
            expected=f"at least {recipe.batch_size} images, one global batch",
            found=str(images),
            where="epoch_images" if recipe.epoch_images else source.where,
            cure=f"use more images, or a smaller batch, as --set batch_size={1 << (images.bit_length() - 1)}",
        )
    return images


def _default_workers(world: World) -> int:
    """On a CPU the encoders want every core, so loading has no process of its own."""
    if world.device.type == "cpu":
        return 0
    return min(16, max(1, len(os.sched_getaffinity(0)) // world.local_size))


class Stopped(NamedTuple):
    """A `UserError` as a value: a loading process cannot raise it to the main one, because it cannot be pickled."""

    expected: str
    found: str
    where: str | None
    cure: str | None


class _Batches(IterableDataset[Batch | Stopped]):
    """A feed as the loading processes see it: each gives every `workers`-th batch, and the loader asks them in turn."""

    def __init__(self, feed: Feed, position: Sequence[int]) -> None:
        self.feed, self.position = feed, position

    def __iter__(self) -> Iterator[Batch | Stopped]:
        epoch, start = self.position
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        try:
            yield from self.feed.batches(epoch, start, (start + worker) % workers, workers)
        except UserError as error:
            yield Stopped(error.expected, error.found, None if error.where is None else str(error.where), error.cure)


def _as_it_is(value: T) -> T:
    return value


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
        tried = 0
        for item in items:
            made = self._made(item, epoch)
            if not isinstance(made, Fault):
                return made, item.number
            faults.append(made)
            tried += 1
            if tried == ATTEMPTS:
                break
        raise out_of_reach(faults[-1], tried)

    def _made(self, item: Item, epoch: int) -> tuple[Tensor, ...] | Fault:
        file = io.BytesIO(item.file) if isinstance(item.file, bytes) else item.file
        try:
            # Pillow warns of odd metadata and of large images, which harms no view, once an image: a flood.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")
                with Image.open(file) as image:
                    return self.view_maker(image, epoch, draw_number(item))
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


class FileFeed:
    """Images that are files of their own, in an order that no number of processes or workers changes.

    The permutations of all passes over the data set follow each other, and an epoch is the next `images` of them.
    """

    def __init__(self, source: ImageFiles, share: Share, views: Views, seed: int) -> None:
        self.paths, self.share, self.views, self.seed = source.paths, share, views, seed
        self.steps = share.steps
        self._orders: dict[int, Tensor] = {}

    def batches(self, epoch: int, start: int, lane: int, lanes: int) -> Iterator[Batch]:
        """See `Feed`."""
        for batch in range(start + (lane - start) % lanes, self.steps, lanes):
            first = epoch * self.share.images + batch * self.share.batch_size + self.share.rank * self.share.size
            turns = epoch * self.share.images // len(self.paths)
            slots = [self._candidates(first + slot, turns) for slot in range(self.share.size)]
            yield self.views.batch(slots, epoch, [])

    def _candidates(self, position: int, turns: int) -> Iterator[Item]:
        """The image at a position, then those that may stand in for it: each other one once, from half a pass ahead."""
        images = len(self.paths)
        turn, place = divmod(position, images)
        yield self._item(turn, place, turns)
        for ahead in range(images - 1):
            yield self._item(turn, (place + 1 + (images // 2 + ahead) % (images - 1)) % images, turns)

    def _item(self, turn: int, place: int, turns: int) -> Item:
        number = int(self._order(turn)[place])
        path = self.paths[number]
        return Item(path, str(path), number, turn - turns)

    def _order(self, turn: int) -> Tensor:
        if turn not in self._orders:
            if len(self._orders) == 2:
                del self._orders[min(self._orders)]
            generator = torch.Generator().manual_seed(stream(self.seed, turn))
            self._orders[turn] = torch.randperm(len(self.paths), generator=generator)
        return self._orders[turn]
