"""From image files to batches of two views, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pretrain.augment import TwoViews, stream
from pretrain.distributed import HereOnly, World
from pretrain.images import ImageFolder
from pretrain.recipes import Recipe


class Draw(NamedTuple):
    """Which image, in which epoch: all that an augmentation's randomness needs."""

    epoch: int
    image: int
    """Its place in `ImageFolder.paths`."""


@dataclass(frozen=True)
class Unreadable:
    """A fault met while reading; a worker process returns it, because it cannot raise our errors to the main one."""

    path: Path
    reason: str

    def error(self) -> HereOnly:
        """What the user is told, by the process that met it."""
        return HereOnly(
            expected="an image",
            found=f"one that cannot be read ({self.reason})",
            where=self.path,
            cure="remove or replace it",
        )


Views = tuple[Tensor, Tensor]


def loader(
    images: ImageFolder, recipe: Recipe, world: World, batches: EpochBatches, seed: int
) -> DataLoader[Views | Unreadable]:
    """Batches of two views, each N×3×S×S, or a fault in one's stead."""
    workers = recipe.workers if recipe.workers is not None else _default_workers(world)
    return DataLoader(
        TwoViewImages(images, TwoViews(recipe, seed)),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=world.device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own: the number of workers must not move the model's random stream
    )


def _default_workers(world: World) -> int:
    """On a CPU the encoders want every core, so loading has no process of its own."""
    if world.device.type == "cpu":
        return 0
    return min(16, max(1, (os.cpu_count() or 1) // world.local_size))


class TwoViewImages(Dataset[Views | Unreadable]):
    """`Draw` -> two views of the image, each 3×S×S, or what was wrong with it."""

    def __init__(self, folder: ImageFolder, views: TwoViews) -> None:
        self.paths, self.views = folder.paths, views

    def __getitem__(self, draw: Draw) -> Views | Unreadable:
        path = self.paths[draw.image]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:
            # Pillow's decoders raise nearly anything for a damaged file, as TypeError for a TIFF of wrong tags.
            return Unreadable(path, str(error) or type(error).__name__)
        return self.views(image, draw.epoch, draw.image)


def collate(samples: Sequence[Views | Unreadable]) -> Views | Unreadable:
    """Stack to two N×3×S×S batches; the first fault, where there is one, stands for the batch."""
    for sample in samples:
        if isinstance(sample, Unreadable):
            return sample
    im_q, im_k = default_collate(list(samples))
    return im_q, im_k


class EpochBatches(Sampler[list[Draw]]):
    """This process's share of each global batch; what is left over at the end of an epoch is dropped.

    The global batches do not depend on how many processes share them: rank r takes the r-th part of each.
    """

    def __init__(self, images: int, batch_size: int, *, rank: int, world: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        share = batch_size // world
        self.mine = slice(rank * share, (rank + 1) * share)
        self.epoch = 0
        self.start = 0
        """The first batch to give, for a run that goes on in the middle of an epoch."""

    def __len__(self) -> int:
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(stream(self.seed, self.epoch))
        order = torch.randperm(self.images, generator=generator).tolist()
        for batch in range(self.start, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [Draw(self.epoch, image) for image in chosen[self.mine]]
