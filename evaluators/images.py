"""From a file to a tensor: the transforms, their read-back, and batches whose random draws depend on no worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)

from converters.errors import CheckFailed, UserError
from converters.metadata import Preprocess
from evaluators.datasets.labelled import Split

Transform = Callable[[Image.Image], Tensor]
"""A PIL image in RGB -> 3×H×W, float32, ready for the network."""


class ToInput:
    """Pixels -> float32 in the channel order, value range, mean and std that a backbone asks for."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.low, self.high = preprocess.value_range
        self.bgr = preprocess.channel_order == "BGR"
        self.mean = torch.tensor(preprocess.mean).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocess.std).view(1, 3, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image in RGB -> 3×H×W."""
        return self.of_pixels(pixels(image)[None])[0].contiguous()

    def of_pixels(self, batch: Tensor) -> Tensor:
        """B×H×W×3 of bytes -> B×3×H×W on the same device, channels last: bit for bit what each image alone gives."""
        x = batch.permute(0, 3, 1, 2).float().div_(255.0)
        if (self.low, self.high) != (0.0, 1.0):
            x.mul_(self.high - self.low).add_(self.low)
        if self.bgr:
            x = x.flip(1)
        return x.sub_(self.mean.to(x.device)).div_(self.std.to(x.device))


class View:
    """What happens to an image before the network: the geometry on 8-bit pixels, then `ToInput`.

    The two parts can run in two places: a worker hands on a quarter of the bytes when it stops at the pixels.
    """

    def __init__(self, geometry: Callable[[Image.Image], Image.Image], to_input: ToInput) -> None:
        self.geometry, self.to_input = geometry, to_input

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image in RGB -> 3×H×W, float32."""
        return self.to_input(self.geometry(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """A PIL image in RGB -> H×W×3 of bytes; `to_input.of_pixels` does the rest."""
        return pixels(self.geometry(image))


def pixels(image: Image.Image) -> Tensor:
    """A PIL image in RGB -> H×W×3 of bytes."""
    return torch.from_numpy(np.array(image, dtype=np.uint8))


def centre_view(preprocess: Preprocess, *, resize: int, crop: int, interpolation: str, geometry: str = "crop") -> View:
    """An image of any shape as a square of `crop` pixels, then `ToInput`.

    Args:
        preprocess: what the backbone wants.
        resize: pixels of the shorter side, before the square is made.
        crop: the square's side, pixels.
        interpolation: of every resizing.
        geometry: see `evaluators.settings.base.FeatureSettings`.
    """
    mode = InterpolationMode(interpolation)
    steps = {
        "crop": [Resize(resize, interpolation=mode), CenterCrop(crop)],
        "squash": [Resize(resize, interpolation=mode), Resize((crop, crop), interpolation=mode)],
        "squash-crop": [Resize((resize, resize), interpolation=mode), CenterCrop(crop)],
    }
    return View(Compose(steps[geometry]), ToInput(preprocess))


def random_view(preprocess: Preprocess, *, crop: int, scale: tuple[float, float], interpolation: str) -> View:
    """Random resized crop of `crop` pixels, horizontal flip with probability 1/2, then `ToInput`."""
    mode = InterpolationMode(interpolation)
    geometry = Compose([RandomResizedCrop(crop, scale=scale, interpolation=mode), RandomHorizontalFlip()])
    return View(geometry, ToInput(preprocess))


def read_back(transform: Transform) -> Preprocess:
    """What a transform really does to an image's values, measured on plain images; on the scale of (0, 1).

    Raises:
        CheckFailed: if the transform is no permutation of the channels followed by mean and std.
    """

    def response(*colour: int) -> Tensor:
        return transform(Image.new("RGB", (64, 64), colour)).double().mean(dim=(1, 2))

    with torch.random.fork_rng(devices=[]):
        black, white = response(0, 0, 0), response(255, 255, 255)
        gain = white - black
        if (gain <= 0).any():
            raise CheckFailed(f"receipt: the input transform inverts or blanks colour channels: gain {gain.tolist()}")
        # Row i: how much of red, green and blue reaches input channel i.
        mixing = torch.stack([(response(*colour) - black) / gain for colour in _PRIMARIES], dim=1)
    orders = {"RGB": torch.eye(3), "BGR": torch.eye(3).flip(0)}
    for order, expected in orders.items():
        if torch.allclose(mixing, expected.double(), atol=1e-3):
            std = 1.0 / gain
            return Preprocess(channel_order=order, mean=_triple(-black * std), std=_triple(std))
    raise CheckFailed(f"receipt: the input transform mixes the colour channels: {mixing.tolist()}")


_PRIMARIES = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def _triple(values: Tensor) -> tuple[float, float, float]:
    # Six significant digits: below them lies the rounding of float32.
    a, b, c = (float(f"{value:.6g}") for value in values.tolist())
    return a, b, c


def stream(*words: int) -> int:
    """A seed of 64 bits for the stream that `words` name; streams of different words are independent."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


Key = tuple[int, int]
"""Epoch and index of a sample."""


@dataclass(frozen=True)
class _Unreadable:
    """An image that could not be decoded. It leaves a worker as a value: an exception would arrive as a traceback."""

    found: str
    path: str


class Images(Dataset[Any]):
    """Samples by `(epoch, index)`: `(tensor, label)`.

    Args:
        samples: the images.
        transform: applied to each, as a `View` or its `pixels`.
        seed: where the transform draws at random, the words that name the stream; each item then has a generator of
            its own, named by these words, epoch and index. Torchvision's transforms draw from torch's global
            generator: it is seeded for the item and restored behind it.
    """

    def __init__(self, samples: Split, transform: Transform, seed: tuple[int, ...] | None = None) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | _Unreadable:
        epoch, index = key
        path, label = self.samples[index]
        try:
            image = self.samples.load(index)
        except UserError as error:
            return _Unreadable(error.found, str(path))
        if self.seed is None:
            return self.transform(image), label
        with torch.random.fork_rng(devices=[]):
            # This generator alone: `torch.manual_seed` would seed the GPUs too, and those are not restored.
            torch.default_generator.manual_seed(stream(*self.seed, epoch, index))
            return self.transform(image), label


class Batches:
    """Batches of an `Images` in a given order; worker processes live as long as this object.

    Args:
        images: the data set.
        batch_size: images a batch, at most: no image is lost or doubled.
        workers: processes that decode; at most the number of usable cores. None changes a value.
        pin: pin memory, for a copy to a GPU.
    """

    def __init__(self, images: Images, *, batch_size: int, workers: int, pin: bool = False) -> None:
        self._batch_size = batch_size
        self._order = _Order()
        workers = min(
            workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._loader: DataLoader[Any] = DataLoader(
            images,
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            pin_memory=pin,
            # It seeds the workers, which draw nothing from it; without one, torch's global generator would move.
            generator=torch.Generator(),
        )

    def __call__(self, epoch: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images B×… as the transform makes them, and labels B, in this order; the last batch may be smaller.

        Raises:
            UserError: for an image that cannot be decoded, with its path.
        """
        return self.grouped(epoch, [order])

    def grouped(self, epoch: int, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same for several runs of images, none of which shares a batch with another."""
        self._order.batches = [
            [(epoch, index) for index in group[start : start + self._batch_size]]
            for group in groups
            for start in range(0, len(group), self._batch_size)
        ]
        for batch in self._loader:
            if isinstance(batch, _Unreadable):
                raise UserError(
                    expected="an image that can be decoded",
                    found=batch.found,
                    where=batch.path,
                    cure="repair or remove it",
                )
            yield batch


class _Order:
    """A batch sampler whose batches are set from outside."""

    def __init__(self) -> None:
        self.batches: list[list[Key]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


def _collate(items: list[tuple[Tensor, int] | _Unreadable]) -> tuple[Tensor, Tensor] | _Unreadable:
    images, labels = [], []
    for item in items:
        if isinstance(item, _Unreadable):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)
