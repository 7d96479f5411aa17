"""Gaussian blur: one image on a CPU, or N images with a standard deviation of their own on a GPU.

Both equal torchvision's `gaussian_blur` on float tensors with a kernel of 2·ceil(4σ) + 1 pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

REACH = 4
"""The kernel ends at this many standard deviations (rounded up): 6e-5 of the Gaussian lie beyond.

So it covers the largest of a recipe. No kernel reaches farther than reflection allows, a side's pixels less one.
"""
_BLOCK = 32  # pixels that are blurred by one matrix product; 16 and 56 are slower


def blur_each(values: Tensor, sigma: Tensor) -> Tensor:
    """N×C×H×W by N×1×1×1 standard deviations, pixels; 0 is no blur."""
    height, width = values.shape[-2:]
    rows = _matrices(sigma, height)
    columns = rows if width == height else _matrices(sigma, width)
    blurred: Tensor = rows @ values @ columns.mT
    return blurred


def _matrices(sigma: Tensor, side: int) -> Tensor:
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


def blur_one(values: Tensor, sigma: float, room: Tensor) -> None:
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
