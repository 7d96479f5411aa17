"""Batches from tar shards that are read as streams, split over processes and their loading processes.

A *lane* is one loading process of one training process. It delivers every `lanes`-th batch of its training process,
and reads a part of the shards for that:

- Where `shards.json` says how many images each shard holds, all passes over the data follow each other, each in an
  order of shards of its own, and an epoch is the next `images` of them. Each lane reads exactly the stretch that it
  delivers, so that nothing is shown twice or left out, however the shards fall; at its ends it reads parts of shards.
- Otherwise each lane takes its share of the epoch's order, whole shards, and begins another pass when they run out.

Either way a lane's images go through a shuffle buffer. A damaged image leaves a gap that the image due one batch later
fills; that one comes again in its turn, so that no damage moves what follows. A stretch that turns out too short, as by
a shard that ends too soon, is filled from another pass.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import UserError
from pretrain.input import tar_samples
from pretrain.input.batches import ATTEMPTS, Batch, Fault, Item, Share, Views, hash63, out_of_reach
from pretrain.input.shards import INDEX, Shard, Shards

SHUFFLE_BUFFER = 1000
"""Encoded images that each lane holds and draws from; 30 MB for packed images of 256 pixels."""

_ORDER, _BUFFER = 1, 2  # the last word of a generator's key; never 0, which SeedSequence does not tell from nothing


class Stretch(NamedTuple):
    """Images `start` to `stop` (exclusive; None for all) of a shard."""

    shard: Shard
    start: int
    stop: int | None
    turn: int
    """See `Item`."""


class ShardFeed:
    """See the module.

    Args:
        source: the shards.
        share: this process's part of each global batch.
        views: what makes the batches.
        seed: of the order of shards and of the shuffle buffers.
        buffer: images that a lane holds.

    Raises:
        UserError: if there are fewer shards than processes, and they do not say how many images they hold.
    """

    def __init__(self, source: Shards, share: Share, views: Views, seed: int, buffer: int = SHUFFLE_BUFFER) -> None:
        self.shards, self.share, self.views, self.seed, self.buffer = source.shards, share, views, seed, buffer
        self.steps = share.steps
        self.counted = source.count is not None
        self.counts = np.array([shard.images or 0 for shard in source.shards], dtype=np.int64)
        if not self.counted and len(self.shards) < share.world:
            raise UserError(
                expected=f"at least {share.world} shards, one a process",
                found=str(len(self.shards)),
                where=source.where,
                cure="start fewer processes, or make more shards; those of `moco-transfer data pack` are split anyhow",
            )

    def most_lanes(self) -> int:
        """So many loading processes at most find something to read."""
        return self.steps if self.counted else len(self.shards) // self.share.world

    def batches(self, epoch: int, start: int, lane: int, lanes: int) -> Iterator[Batch]:
        """See `Feed`. What lies before `start` is read but not decoded."""
        images = _Lane(self.items(epoch, lane, lanes), self.share.size)
        for _ in range(len(range(lane, start, lanes)) * self.share.size):
            images.take()
        images.faults.clear()  # they were told with the batches before
        for _ in range(start + (lane - start) % lanes, self.steps, lanes):
            yield self.views.batch([images.candidates() for _ in range(self.share.size)], epoch, images.faults)
            images.faults.clear()

    def items(self, epoch: int, lane: int, lanes: int) -> Iterator[Item | Fault]:
        """The stream of a lane: it has no end.

        Raises:
            UserError: if a pass meets no image, or `ATTEMPTS` faults in a row.
        """
        faults: list[Fault] = []
        told: set[str] = set()
        shards = {shard.url for shard in self.shards}
        for number, stretches in enumerate(self._passes(epoch, lane, lanes)):
            key = (self.seed, epoch, self.share.rank, lane, number, _BUFFER)
            met = False
            for item in _shuffled(_read(stretches), self.buffer, np.random.default_rng(key)):
                if isinstance(item, Item):
                    met = True
                    faults.clear()
                    yield item
                else:
                    # A shard is met again in each pass; an image that is too large leaves a gap each time.
                    if item.where not in told:
                        yield item
                    told |= shards & {item.where}
                    faults.append(item)
                    if len(faults) == ATTEMPTS:
                        raise out_of_reach(item, ATTEMPTS)
            # The first may be short, as a part of one shard: what counts is that another finds none either.
            if number and not met:
                if faults:
                    raise out_of_reach(faults[-1], len(faults))
                raise UserError(
                    expected="tar shards with images, as KEY.jpg",
                    found="none in a whole pass",
                    where=stretches[0].shard.url,
                    cure="look with: tar -tf",
                )

    def _passes(self, epoch: int, lane: int, lanes: int) -> Iterator[list[Stretch]]:
        """What a lane reads, pass by pass; without damage the first is all where the counts are known."""
        turns = 0
        if self.counted:
            own = self._own(epoch, lane, lanes)
            yield own
            turns = self.share.images // int(self.counts.sum()) + 2
        place, of = self.share.rank * lanes + lane, self.share.world * lanes
        for turn in itertools.count(turns):
            order = self._order(epoch, turn, extra=self.counted)
            mine = order[place::of] if of <= len(order) else order[[place % len(order)]]
            yield [Stretch(self.shards[number], 0, None, turn) for number in mine]

    def _own(self, epoch: int, lane: int, lanes: int) -> list[Stretch]:
        """The stretches whose images are just those that a lane delivers in an epoch."""
        needs = [len(range(other, self.steps, lanes)) * self.share.size for other in range(lanes)]
        begin = epoch * self.share.images + self.share.rank * sum(needs) + sum(needs[:lane])
        end, images = begin + needs[lane], int(self.counts.sum())
        found = []
        while begin < end:
            turn, first = divmod(begin, images)
            last = min(first + end - begin, images)
            order = self._order(turn, 0, extra=False)
            ends = np.cumsum(self.counts[order])
            for place in range(int(np.searchsorted(ends, first, side="right")), len(order)):
                stop = int(ends[place])
                offset = stop - int(self.counts[order[place]])
                if offset >= last:
                    break
                within = max(first - offset, 0), min(last, stop) - offset
                if within[0] < within[1]:
                    found.append(
                        Stretch(self.shards[order[place]], *within, turn - epoch * self.share.images // images)
                    )
            begin += last - first
        return found

    def _order(self, epoch: int, turn: int, *, extra: bool) -> NDArray[np.int64]:
        """The order of all shards in a pass; `extra` for the passes that fill gaps."""
        return np.random.default_rng((self.seed, epoch, turn, int(extra), _ORDER)).permutation(len(self.shards))


class _Lane:
    """A stream of images with those taken out of it ahead of their turn."""

    def __init__(self, items: Iterator[Item | Fault], share: int) -> None:
        self.items, self.share = items, share
        self.ahead: deque[tuple[Item, list[Fault]]] = deque()
        self.faults: list[Fault] = []
        """Those met before the images taken: the same however many were pulled ahead, which a resume does not know."""

    def take(self) -> Item:
        """The next image."""
        item, faults = self.ahead.popleft() if self.ahead else self._pull()
        self.faults += faults
        return item

    def candidates(self) -> Iterator[Item]:
        """The next image, then those that may stand in for it: the ones due a batch later."""
        yield self.take()
        for place in itertools.count(self.share - 1):
            while len(self.ahead) <= place:
                self.ahead.append(self._pull())
            yield self.ahead[place][0]

    def _pull(self) -> tuple[Item, list[Fault]]:
        """The next image of the stream, and the faults before it."""
        faults: list[Fault] = []
        while isinstance(item := next(self.items), Fault):
            faults.append(item)
        return item, faults


def _read(stretches: Sequence[Stretch]) -> Iterator[Item | Fault]:
    for shard, start, stop, turn in stretches:
        number = start
        try:
            # Where the shard should end, one more is asked for, to see whether it does.
            for sample in tar_samples.samples(
                shard.url, start, None if stop is None else stop + (stop == shard.images)
            ):
                if number == stop:
                    yield Fault(shard.url, f"holds more than {stop} images, which {INDEX} says it has")
                    break
                number += 1
                where = f"{shard.url}/{sample.member}"
                if isinstance(sample, tar_samples.TooLarge):
                    yield Fault(where, f"{sample.size} bytes are too many for an image")
                else:
                    yield Item(sample.data, where, hash63(shard.name, sample.key), turn)
        except Exception as error:
            # tarfile, the disk and each driver have errors of their own kinds.
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Fault(shard.url, f"read to image {number}: {reason}")
        else:
            if stop is not None and number < stop:
                yield Fault(shard.url, f"holds {number} images, and {shard.images} as shards.json says")


def _shuffled(items: Iterator[Item | Fault], size: int, generator: np.random.Generator) -> Iterator[Item | Fault]:
    """Each image once, drawn from `size` of them, and from what is left at the end; faults at once."""
    buffer: list[Item] = []
    for item in items:
        if isinstance(item, Fault):
            yield item
        elif len(buffer) < size:
            buffer.append(item)
        else:
            slot = int(generator.integers(size))
            yield buffer[slot]
            buffer[slot] = item
    for slot in generator.permutation(len(buffer)):
        yield buffer[slot]
