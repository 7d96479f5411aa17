"""Augmentations on batches of images, each image with parameters of its own.

N images of H×W pixels, float32 in [0, 1]. Every operation equals torchvision's on float tensors
(`torchvision.transforms.functional`) to within rounding; PIL, which the reference uses, rounds to whole levels after
every operation.

A pass over the pixels costs more than what is computed in it. So `Pictures` keeps images as scale·values + offset:
brightness and contrast then change two numbers, of which the clipping alone touches pixels; hue, grey and blur commute
with the affine map, and so does saturation but for the offset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from pretrain.input.blur import blur_each, blur_one

Number = float | Tensor
"""A float for one image; N×1×1×1 for N."""

LUMA = (0.2989, 0.587, 0.114)
"""How much red, green and blue count in grey, as in torchvision; the sum is a little less than 1."""
_SUM = sum(LUMA)


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
        # Where red, green and blue lie in `values`.
        self.channels = (0, 1, 2) if values.shape[1] == 3 else (0, 0, 0)
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
        scale, offset, room = scale[images].clone(), offset[images].clone(), self.room[:, images]
        return Pictures(self.values[images], scale, offset, room)

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
        if not isinstance(shift, Tensor):
            thirds = round(3 * shift)
            red, green, blue = (self.channels[(channel - thirds) % 3] for channel in range(3))
            self.channels = red, green, blue
            turn: Number = 6 * shift - 2 * thirds
        elif small:
            turn = (6 * shift).squeeze(1)
        else:
            exchange = torch.round(3 * shift)
            source = (torch.arange(3, device=shift.device).view(1, 3, 1, 1) - exchange) % 3
            self.values.copy_(self.values.gather(1, source.long().expand_as(self.values)))
            turn = (6 * shift - 2 * exchange).squeeze(1)
        _turn(*self._planes(), turn, self.room)

    def grey(self, which: Tensor | None = None) -> None:
        """As `rgb_to_grayscale`: every image, or those for which N×1×1×1 booleans say so.

        For every image, one channel is kept, which stands for three.
        """
        if which is not None:
            grey = _grey(*self._planes(), out=self.room[0]).unsqueeze(1)
            self.values = torch.where(which, grey, self.values)
            self.offset = torch.where(which, _SUM * self.offset, self.offset)
            return
        if self.is_grey:
            self.scale = self.scale * _SUM
        else:
            # The last plane of the room, which nothing needs that grey images go through.
            self.values, self.channels = _grey(*self._planes(), out=self.room[-1]).unsqueeze(1), (0, 0, 0)
        self.offset = self.offset * _SUM

    def blur(self, sigma: Number) -> None:
        """As `gaussian_blur` with a kernel of 2·ceil(4 sigma) + 1 pixels; above 0, for N images 0 is no blur.

        `blur.REACH` names the 4; no kernel reaches farther than reflection at the border allows, side - 1.
        """
        if isinstance(sigma, Tensor):
            self.values = blur_each(self.values, sigma)
        else:
            blur_one(self.values, sigma, self.room)

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...], out: Tensor) -> None:
        """(image - mean) / std into `out`, N×3×H×W."""
        if isinstance(self.scale, Tensor):
            means, stds = (out.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (mean, std))
            torch.addcmul((self.offset - means) / stds, self.values, self.scale / stds, out=out)
            return
        offsets = torch.tensor([(self.offset - mean[channel]) / std[channel] for channel in range(3)]).unbind()
        for offset, plane, spread, result in zip(offsets, self._planes(), std, out.unbind(1), strict=True):
            torch.add(offset, plane, alpha=self.scale / spread, out=result)

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
            weighted = sum(weight * sums[channel] for weight, channel in zip(LUMA, self.channels, strict=True))
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
        weight = factor.squeeze(1) if isinstance(factor, Tensor) else factor
        grey = _grey(*self._planes(), out=self.room[0])
        for plane in self._planes():
            torch.lerp(grey, plane, weight, out=plane)

    def _planes(self) -> tuple[Tensor, Tensor, Tensor]:
        """N×H×W of red, green and blue, which for grey images are the same."""
        planes = self.values.unbind(1)
        red, green, blue = (planes[channel] for channel in self.channels)
        return red, green, blue

    def images(self) -> Tensor:
        """N×3×H×W in [0, 1]."""
        return self.scale * torch.stack(self._planes(), dim=1) + self.offset

    def _clip(self, factor: Number) -> None:
        """To [0, 1], which a factor of at most 1 does not leave."""
        if isinstance(factor, Tensor) or factor > 1:
            low: Any = -self.offset / self.scale  # torch's types know no clamp between two of either
            high: Any = (1 - self.offset) / self.scale
            self.values.clamp_(low, high)


def _grey(red: Tensor, green: Tensor, blue: Tensor, *, out: Tensor) -> Tensor:
    torch.mul(red, LUMA[0], out=out)
    return out.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _turn(red: Tensor, green: Tensor, blue: Tensor, turn: Number, room: Tensor) -> None:
    """`Pictures.hue` on planes, N×H×W, in place, by `turn` sixths of the circle, -1 to 1."""
    low, mid, high, chroma, *results = room.unbind()
    torch.minimum(red, green, out=low)
    torch.maximum(red, green, out=high)
    torch.minimum(high, blue, out=mid)
    torch.maximum(low, mid, out=mid)
    torch.minimum(low, blue, out=low)
    torch.maximum(high, blue, out=high)
    torch.sub(high, low, out=chroma)
    amount = 1.0
    if isinstance(turn, Tensor):
        chroma.mul_(turn)
    else:
        amount = turn
    planes = (red, green, blue)
    for channel, (old, new) in enumerate(zip(planes, results, strict=True)):
        torch.sub(planes[(channel + 1) % 3], planes[(channel + 2) % 3], out=new)
        torch.addcmul(mid, new.sign_(), chroma, value=amount, out=new)
        torch.lerp(new, old, 2.0, out=new)  # 2·old - new
    for plane, new in zip(planes, results, strict=True):
        torch.clamp(new, low, high, out=plane)


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
    return pictures.images()


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
        return pictures.images()
    results = []
    for image, number in zip(images.unsqueeze(1), numbers.tolist(), strict=True):
        pictures = Pictures(image.clone(memory_format=torch.contiguous_format), 1.0, 0.0)
        operation(pictures, number)
        results.append(pictures.images())
    return torch.cat(results)
