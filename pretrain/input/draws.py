"""The random parameters of a view, the same that torchvision's transforms draw from the same stream.

`augment.transform` draws and applies in one go. The batched pipeline crops in the loading process and does the rest on
the device, so it needs the parameters alone: here the same calls of the same generator in the same order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretrain.recipes import Recipe

# torchvision compares float32 numbers with these, so that they count as rounded to float32.
GREY, JITTER, BLUR, FLIP = (float(np.float32(share)) for share in (0.2, 0.8, 0.5, 0.5))
"""How often each is applied; v1 jitters always and never blurs."""
STRENGTH = 0.4
"""Of brightness, contrast and saturation: factors within 1 ± this."""
HUE = {"v1": 0.4, "v2": 0.1}
"""Range of the hue's shift in turns, ± this (facebookresearch/moco@7397dfe, `main_moco.py`)."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop before it is resized; torchvision's default."""
BRIGHTNESS, CONTRAST, SATURATION, HUE_SHIFT = range(4)
"""How `View.order` names the operations of the jitter, as torchvision does."""


class Crop(NamedTuple):
    """A part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """All that is random in a view."""

    crop: Crop
    order: tuple[int, ...]
    """The operations of the jitter, first to last; empty for none."""
    factors: tuple[float, float, float, float]
    """Of brightness, contrast and saturation; the hue's shift in turns. In this order, whatever `order` is."""
    grey: bool
    sigma: float
    """Of the blur, pixels of the resized crop; 0 for none."""
    flip: bool

    def packed(self) -> list[float]:
        """As the `PACKED` numbers that go with the pixels; `unpacked` reads them."""
        order = self.order or (-1,) * 4
        return [*order, *self.factors, float(self.grey), self.sigma, float(self.flip)]


PACKED = 11
"""P: the numbers of `View.packed`, all exact in float32."""


class Job(NamedTuple):
    """What `View.packed` says, without the crop, for one image."""

    order: tuple[int, ...]
    factors: tuple[float, ...]
    grey: bool
    sigma: float
    flip: bool


def unpacked(row: list[float]) -> Job:
    """What a row of packed numbers says."""
    order = tuple(int(number) for number in row[:4]) if row[0] >= 0 else ()
    return Job(order, tuple(row[4:8]), bool(row[8]), row[9], bool(row[10]))


class Draws:
    """The views of the images of a run."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.seed = seed
        self.recipe = recipe
        self.log_aspect: list[float] = torch.log(torch.tensor(ASPECT)).tolist()

    def __call__(self, width: int, height: int, epoch: int, number: int, view: int) -> View:
        """Of image `number`, `width` × `height` pixels, in `epoch`; `view` is 0 for the query, 1 for the key."""
        source = _Source(stream(self.seed, epoch, number, view))
        crop = self._crop(source, width, height)
        order: tuple[int, ...] = ()
        factors = (1.0, 1.0, 1.0, 0.0)
        sigma = 0.0
        if self.recipe.augmentation == "v1":
            grey = source.rand() < GREY
            order, factors = _jitter(source, HUE["v1"])
        else:
            if source.rand() <= JITTER:
                order, factors = _jitter(source, HUE["v2"])
            grey = source.rand() < GREY
            if source.rand() <= BLUR:
                sigma = source.uniform(*self.recipe.blur_radius)
        return View(crop, order, factors, grey, sigma, flip=source.rand() < FLIP)

    def _crop(self, source: _Source, width: int, height: int) -> Crop:
        """`torchvision.transforms.RandomResizedCrop.get_params` (0.29), with a generator of its own."""
        for _ in range(10):
            area = width * height * source.uniform(*self.recipe.crop_scale)
            aspect = source.exp_uniform(*self.log_aspect)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = source.integer(height - h + 1)
                return Crop(top, source.integer(width - w + 1), h, w)
        # An image so narrow that no crop fits: its middle, as near to the range of aspects as can be.
        w, h = width, height
        if width / height < min(ASPECT):
            h = round(width / min(ASPECT))
        elif width / height > max(ASPECT):
            w = round(height * max(ASPECT))
        return Crop((height - h) // 2, (width - w) // 2, h, w)


def _jitter(source: _Source, hue: float) -> tuple[tuple[int, ...], tuple[float, float, float, float]]:
    """`torchvision.transforms.ColorJitter.get_params`."""
    order = source.permutation(4)
    brightness, contrast, saturation = source.uniforms(3, 1 - STRENGTH, 1 + STRENGTH)
    return order, (brightness, contrast, saturation, source.uniform(-hue, hue))


class _Source:
    """A stream, and the calls that torchvision's transforms draw from it by."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.one, self.index = torch.empty(1), torch.empty(1, dtype=torch.int64)

    def rand(self) -> float:
        return self.uniform(0.0, 1.0)

    def uniform(self, low: float, high: float) -> float:
        return self.one.uniform_(low, high, generator=self.generator).item()

    def uniforms(self, count: int, low: float, high: float) -> list[float]:
        numbers: list[float] = torch.empty(count).uniform_(low, high, generator=self.generator).tolist()
        return numbers

    def exp_uniform(self, low: float, high: float) -> float:
        return self.one.uniform_(low, high, generator=self.generator).exp_().item()

    def integer(self, count: int) -> int:
        return int(self.index.random_(0, count, generator=self.generator).item())

    def permutation(self, count: int) -> tuple[int, ...]:
        return tuple(torch.randperm(count, generator=self.generator).tolist())


def stream(*key: int) -> int:
    """A 64-bit seed for the random stream that belongs to `key`; all parts are at least 0."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def packed(views: list[View]) -> Tensor:
    """V views -> V×P float32."""
    return torch.tensor([view.packed() for view in views])
