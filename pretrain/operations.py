"""Augmentations on batches of images, each image with parameters of its own.

N images of H×W pixels, float32 in [0, 1]. Every operation equals torchvision's on float tensors
(`torchvision.transforms.functional`) to within rounding; PIL, which the reference uses, rounds to whole levels after
every operation.

A pass over the pixels costs more than what is computed in it. So `Pictures` keeps images as scale·values + offset:
brightness and contrast then change two numbers, of which the clipping alone touches pixels; hue, grey and blur commute
with the affine map, and so does saturation but for the offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Number = float | Tensor
"""A float for one image; N×1×1×1 for N."""

LUMA = (0.2989, 0.587, 0.114)
"""How much red, green and blue count in grey, as in torchvision; the sum is a little less than 1."""
REACH = 4
"""The blur's kernel ends at this many standard deviations (rounded up): 6e-5 of the Gaussian lie beyond."""
_SUM = sum(LUMA)
_BLOCK = 32  # columns that are blurred by one matrix product; 16 and 64 are slower


class Pictures:
    """N images in the making: each is scale·values + offset.

    Args:
        values: N×3×H×W; overwritten.
        scale: above 0; a float for one image, N×1×1×1 for N.
        offset: likewise.
        room: `PLANES`×N×H×W to work in. Fresh memory costs a page fault for every 4 KiB, which on a CPU takes longer
            than the arithmetic; so whoever augments image after image gives the same room to all.
    """

    PLANES = 7

    def __init__(self, values: Tensor, scale: Number, offset: Number, room: Tensor | None = None) -> None:
        self.values, self.scale, self.offset = values, scale, offset
        number, _, height, width = values.shape
        self.room = values.new_empty(self.PLANES, number, height, width) if room is None else room

    @classmethod
    def of(cls, values: Tensor, scale: float) -> Self:
        """N images whose scales and offsets will differ."""
        scales = torch.full_like(values[:, :1, :1, :1], scale)
        return cls(values, scales, torch.zeros_like(scales))

    def part(self, images: slice) -> Pictures:
        """Some of N images: it works on the same values, and on scales and offsets of its own."""
        scale, offset = self.scale, self.offset
        assert isinstance(scale, Tensor)
        assert isinstance(offset, Tensor)
        return Pictures(self.values[images], scale[images].clone(), offset[images].clone(), self.room[:, images])

    def rejoin(self, part: Pictures) -> None:
        """Take over the scales and offsets of a part that began with the first image."""
        assert isinstance(self.scale, Tensor)
        assert isinstance(self.offset, Tensor)
        self.scale[: len(part)], self.offset[: len(part)] = part.scale, part.offset

    def __len__(self) -> int:
        """N."""
        return len(self.values)

    def brightness(self, factor: Number) -> None:
        """As `adjust_brightness`, for factors above 0."""
        self._brightness(factor)
        self._clip(factor)

    def contrast(self, factor: Number) -> None:
        """As `adjust_contrast`, for factors above 0: to or from the mean of the grey image."""
        self._contrast(factor)
        self._clip(factor)

    def saturation(self, factor: Number) -> None:
        """As `adjust_saturation`, for factors above 0: to or from the grey image."""
        self._saturation(factor)
        self._clip(factor)

    def blend(self, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> None:
        """These three, when at most one of an image's factors is not 1."""
        self._brightness(brightness)
        self._contrast(contrast)
        self._saturation(saturation)
        self._clip(brightness)

    def hue(self, shift: Number, *, small: bool = False) -> None:
        """As `adjust_hue`, in turns from -1/2 to 1/2.

        Let m ≤ mid ≤ M be a pixel's channels in order. A turn by t, |t| ≤ 1/6, takes red to
        2·red - mid - 6t·(M - m)·sign(green - blue), clipped to [m, M], and so on around the circle: in HSV's hexagon a
        channel is constant or linear in the hue, so that neither the hue nor its cases need be computed. A turn by
        1/3 exchanges the channels; `small` says that no |shift| is above 1/6, which saves N images that exchange.
        """
        if self.is_grey:
            return
        planes = sources = self.values.unbind(1)
        thirds: Number = 0
        if isinstance(shift, Tensor) and not small:
            thirds = torch.round(3 * shift)
            source = (torch.arange(3, device=shift.device).view(1, 3, 1, 1) - thirds) % 3
            sources = self.values.gather(1, source.long().expand_as(self.values)).unbind(1)
        elif not isinstance(shift, Tensor):
            thirds = round(3 * shift)
            sources = tuple(planes[(channel - thirds) % 3] for channel in range(3))
        turn = 6 * shift - 2 * thirds
        first, second, third = sources
        low, mid, high, chroma, *results = self.room.unbind()
        torch.minimum(first, second, out=low)
        torch.maximum(first, second, out=high)
        torch.minimum(high, third, out=mid)
        torch.maximum(low, mid, out=mid)
        torch.minimum(low, third, out=low)
        torch.maximum(high, third, out=high)
        torch.sub(high, low, out=chroma)
        amount = 1.0
        if isinstance(turn, Tensor):
            chroma.mul_(turn.squeeze(1))
        else:
            amount = turn
        for channel, (old, new) in enumerate(zip(sources, results, strict=True)):
            torch.sub(sources[(channel + 1) % 3], sources[(channel + 2) % 3], out=new)
            torch.addcmul(mid, new.sign_(), chroma, value=amount, out=new)
            torch.lerp(new, old, 2.0, out=new)  # 2·old - new
        for plane, new in zip(planes, results, strict=True):
            torch.clamp(new, low, high, out=plane)

    def grey(self, which: Tensor | None = None) -> None:
        """As `rgb_to_grayscale`: every image, or those for which N×1×1×1 booleans say so.

        For every image, one channel is kept, which stands for three.
        """
        if which is not None:
            grey = _weighted(self.values, self.room[0]).unsqueeze(1)
            self.values = torch.where(which, grey, self.values)
            self.offset = torch.where(which, _SUM * self.offset, self.offset)
            return
        if self.is_grey:
            self.scale = self.scale * _SUM
        else:
            _weighted(self.values, self.values[:, 0])
            self.values = self.values[:, :1]
        self.offset = self.offset * _SUM

    def blur(self, sigma: Number) -> None:
        """As `gaussian_blur` with a kernel of 2·ceil(4 sigma) + 1 pixels; above 0, for N images 0 is no blur.

        `REACH` names the 4; no kernel reaches farther than reflection at the border allows, side - 1.
        """
        if isinstance(sigma, Tensor):
            height, width = self.values.shape[-2:]
            rows = blurring(sigma, height)
            columns = rows if width == height else blurring(sigma, width)
            self.values = rows @ self.values @ columns.mT
        else:
            _blur_one(self.values, sigma, self.room)

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...], out: Tensor) -> None:
        """(image - mean) / std into `out`, N×3×H×W."""
        if isinstance(self.scale, Tensor):
            means, stds = (out.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (mean, std))
            torch.addcmul((self.offset - means) / stds, self.values, self.scale / stds, out=out)
            return
        planes = self.values.unbind(1)
        offsets = torch.tensor([(self.offset - mean[channel]) / std[channel] for channel in range(3)]).unbind()
        for channel, (offset, plane) in enumerate(zip(offsets, out.unbind(1), strict=True)):
            torch.add(offset, planes[channel % len(planes)], alpha=self.scale / std[channel], out=plane)

    @property
    def is_grey(self) -> bool:
        """True when one channel stands for three."""
        return self.values.shape[1] == 1

    def _brightness(self, factor: Number) -> None:
        self.scale = self.scale * factor
        self.offset = self.offset * factor

    def _contrast(self, factor: Number) -> None:
        if isinstance(self.scale, Tensor):
            weights = self.values.new_tensor(LUMA).view(1, 3, 1, 1)
            mean: Number = (self.values.mean((-2, -1), keepdim=True) * weights).sum(1, keepdim=True)
        else:
            sums = self.values.sum((0, 2, 3)).tolist()
            weighted = sum(weight * total for weight, total in zip(LUMA, sums * (3 // len(sums)), strict=True))
            mean = weighted / self.values[0, 0].numel()
        grey = self.scale * mean + _SUM * self.offset
        self.scale = self.scale * factor
        self.offset = self.offset * factor + (1 - factor) * grey

    def _saturation(self, factor: Number) -> None:
        kept = factor + (1 - factor) * _SUM  # of what all channels share
        self.offset = self.offset * kept
        if self.is_grey:
            self.scale = self.scale * kept
            return
        grey = _weighted(self.values, self.room[0])
        weight = factor.squeeze(1) if isinstance(factor, Tensor) else factor
        for plane in self.values.unbind(1):
            torch.lerp(grey, plane, weight, out=plane)

    def _clip(self, factor: Number) -> None:
        """To [0, 1], which a factor of at most 1 does not leave."""
        if isinstance(factor, Tensor) or factor > 1:
            low: Any = -self.offset / self.scale  # torch's types know no clamp between two of either
            high: Any = (1 - self.offset) / self.scale
            self.values.clamp_(low, high)


def _weighted(colours: Tensor, out: Tensor) -> Tensor:
    """N×3×H×W -> N×H×W, grey; `out` may be the red plane."""
    red, green, blue = colours.unbind(1)
    torch.mul(red, LUMA[0], out=out)
    return out.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blurring(sigma: Tensor, side: int) -> Tensor:
    """N×1×1×1 standard deviations -> N×1×side×side, matrices that blur a column of `side` pixels.

    Pixel j is seen by pixel i at i - j, and by reflection at i + j and i + j - 2(side - 1). One large product suits a
    GPU better than many small ones.
    """
    i = torch.arange(side, device=sigma.device, dtype=sigma.dtype).view(side, 1)
    j = i.view(1, side)
    reach = torch.ceil(REACH * sigma).clamp(max=side - 1)

    def seen(distance: Tensor) -> Tensor:
        gauss = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)).square())
        return torch.where(distance.abs() <= reach, gauss, 0)

    weights = seen(i - j) + seen(i + j) * (j > 0) + seen(i + j - 2 * (side - 1)) * (j < side - 1)
    return weights / weights.sum(-1, keepdim=True)


def _blur_one(values: Tensor, sigma: float, room: Tensor) -> None:
    """1×C×H×W, overwritten: along W and then along H by products with bands of the two matrices.

    A band holds what `_BLOCK` neighbouring pixels see. Larger products compute too many zeros, and a convolution of
    three channels runs at a fraction of the speed of matrix products.
    """
    _, channels, height, width = values.shape
    halfway = room[:channels, 0]  # C×H×W
    flat, out = values.view(channels * height, width), halfway.view(channels * height, width)
    for seen, blurred, weights in _bands(sigma, width):
        torch.mm(flat[:, seen], weights, out=out[:, blurred])
    bands = _bands(sigma, height)
    for source, plane in zip(halfway, values.squeeze(0), strict=True):
        for seen, blurred, weights in bands:
            torch.mm(weights.T, source[seen], out=plane[blurred])


def _bands(sigma: float, side: int) -> list[tuple[slice, slice, Tensor]]:
    """Which pixels are seen, which are blurred, seen × blurred weights; for all blocks of a column of `side` pixels."""
    reach = min(math.ceil(REACH * sigma), side - 1)
    kernel = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(reach + 1)]
    total = 2 * sum(kernel) - 1
    blocks, distances = _distances(side, reach)
    by_distance = torch.tensor([*(weight / total for weight in kernel), 0.0])
    weights = by_distance.index_select(0, distances.flatten()).view(distances.shape).sum(0).unbind()
    return [(seen, blurred, weights[which]) for seen, blurred, which in blocks]


@lru_cache(maxsize=64)
def _distances(side: int, reach: int) -> tuple[list[tuple[slice, slice, int]], Tensor]:
    """For each block of a column: what it sees, where it lies, and the place of its distances.

    Those are 3 × different × seen × blurred: direct, reflected at the beginning, reflected at the end; reach + 1 where
    a pixel is not seen. Blocks away from the ends have the same.
    """
    block = min(_BLOCK, side)
    width = min(block + 2 * reach, side)
    lefts = [min(left, side - block) for left in range(0, side, block)]
    firsts = [min(max(left - reach, 0), side - width) for left in lefts]
    different: dict[bytes, int] = {}
    tables: list[npt.NDArray[np.int64]] = []
    blocks = []
    for left, first in zip(lefts, firsts, strict=True):
        i = np.arange(left, left + block)
        j = np.arange(first, first + width)[:, np.newaxis]
        unseen = np.full((width, block), reach + 1)
        reflected = np.where(j > 0, i + j, unseen), np.where(j < side - 1, 2 * (side - 1) - i - j, unseen)
        table = np.minimum(np.abs([i - j, *reflected]), reach + 1).astype(np.int64)
        which = different.setdefault(table.tobytes(), len(different))
        if which == len(tables):
            tables.append(table)
        blocks.append((slice(first, first + width), slice(left, left + block), which))
    return blocks, torch.from_numpy(np.stack(tables, axis=1))


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """N×3×H×W in [0, 1], N factors above 0 -> new images, as of all the functions here."""
    return _each(images, factor, Pictures.brightness)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """N×3×H×W in [0, 1], N factors above 0 -> N×3×H×W."""
    return _each(images, factor, Pictures.contrast)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """N×3×H×W in [0, 1], N factors above 0 -> N×3×H×W."""
    return _each(images, factor, Pictures.saturation)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """N×3×H×W in [0, 1], N shifts from -1/2 to 1/2, turns -> N×3×H×W."""
    return _each(images, shift, Pictures.hue)


def rgb_to_grayscale(images: Tensor) -> Tensor:
    """N×3×H×W in [0, 1] -> N×3×H×W."""
    pictures = Pictures(images.clone(memory_format=torch.contiguous_format), 1.0, 0.0)
    pictures.grey()
    return (pictures.values + pictures.offset).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """N×3×H×W in [0, 1], N standard deviations above 0, pixels -> N×3×H×W; see `Pictures.blur` for the kernel."""
    return _each(images, sigma, Pictures.blur)


def _each(images: Tensor, numbers: Tensor, operation: Callable[[Pictures, Number], None]) -> Tensor:
    """On a CPU image by image, so that an image's passes find it in the cache; elsewhere all together."""
    if images.device.type != "cpu":
        shape = (len(images), 1, 1, 1)
        numbers = numbers.to(images).view(shape)
        pictures = Pictures(
            images.clone(memory_format=torch.contiguous_format), torch.ones_like(numbers), torch.zeros_like(numbers)
        )
        operation(pictures, numbers)
        return pictures.scale * pictures.values + pictures.offset
    results = []
    for image, number in zip(images.unsqueeze(1), numbers.tolist(), strict=True):
        pictures = Pictures(image.clone(memory_format=torch.contiguous_format), 1.0, 0.0)
        operation(pictures, number)
        results.append(pictures.scale * pictures.values + pictures.offset)
    return torch.cat(results)
