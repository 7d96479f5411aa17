"""From a source to batches of views, the same whenever seed and epoch are the same, also from an epoch's middle on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from converters.distributed import HereOnly, World
from converters.errors import UserError
from pretrain.input.augment import ViewMaker
from pretrain.input.batches import Batch, Fault, Feed, Item, Share, Views
from pretrain.input.draws import stream
from pretrain.input.images import ImageFiles, Source
from pretrain.input.shard_feed import SHUFFLE_BUFFER, ShardFeed
from pretrain.input.shards import Shards
from pretrain.recipes import Recipe

__all__ = ["Batch", "Fault", "FileFeed", "Loader", "epoch_images"]

T = TypeVar("T")


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
    workers: int
    """Loading processes."""
    layout: dict[str, int]
    """What must be equal for an epoch to be taken up in its middle; another epoch can begin under any other.

    Empty for files. The order of shards depends on `lanes`, the loading processes of each process."""

    def __init__(self, source: Source, recipe: Recipe, world: World, view_maker: ViewMaker, *, seed: int) -> None:
        self.images = epoch_images(source, recipe)
        self.steps = self.images // recipe.batch_size
        workers = recipe.workers if recipe.workers is not None else _default_workers(world)
        share = Share(self.images, recipe.batch_size, world.rank, world.size)
        feed: Feed
        if isinstance(source, Shards):
            feed = ShardFeed(source, share, Views(view_maker), seed)
            workers = min(workers, feed.most_lanes())
            self.layout = {"processes": world.size, "lanes": max(1, workers), "buffer": SHUFFLE_BUFFER}
        else:
            feed, self.layout = FileFeed(source, share, Views(view_maker), seed), {}
        self.workers = workers
        self._position = RawArray("q", 2)  # epoch and start, in memory that the workers share
        self._loader: DataLoader[Batch | Told] = DataLoader(
            _Batches(feed, self._position),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=world.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_outlive_stop_requests if workers else None,
            generator=torch.Generator(),  # its own: the number of workers must not move the model's random stream
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` (from 0) in order, from number `start` on.

        Raises:
            HereOnly: if the images are out of reach.
        """
        self._position[:] = [epoch, start]
        for batch in self._loader:
            if isinstance(batch, Told):
                raise HereOnly(expected=batch.expected, found=batch.found, where=batch.where, cure=batch.cure)
            # Pinning makes lists of plain tuples.
            yield Batch(tuple(batch.views), batch.number, tuple(batch.faults))


def _outlive_stop_requests(_worker: int) -> None:
    """A scheduler tells all processes of a job to stop; the loading ones are needed for the step under way.

    They end with the process that they load for.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


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


class Told(NamedTuple):
    """A `UserError` as a value: a loading process cannot raise it to the main one, because it cannot be pickled."""

    expected: str
    found: str
    where: str | None
    cure: str | None


class _Batches(IterableDataset[Batch | Told]):
    """A feed as the loading processes see it: each gives every `workers`-th batch, and the loader asks them in turn."""

    def __init__(self, feed: Feed, position: Sequence[int]) -> None:
        self.feed, self.position = feed, position

    def __iter__(self) -> Iterator[Batch | Told]:
        epoch, start = self.position
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        try:
            yield from self.feed.batches(epoch, start, (start + worker) % workers, workers)
        except UserError as error:
            yield Told(error.expected, error.found, None if error.where is None else str(error.where), error.cure)


def _as_it_is(value: T) -> T:
    return value


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
