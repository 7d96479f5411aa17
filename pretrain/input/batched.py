"""The batched pipeline: crops in the loading process, everything else on the training process's device."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from pretrain.input.decode import decode, resized_crop, shrink
from pretrain.input.draws import BRIGHTNESS, CONTRAST, HUE_SHIFT, SATURATION, Draws, Job, packed, unpacked
from pretrain.input.operations import Pictures
from pretrain.recipes import Recipe

CHUNK = 64
"""Images whose two views are augmented together on a device other than the CPU; bounds its memory."""


class CropViews:
    """The view maker: image -> 2×3×S×S uint8 crops, not yet augmented, and 2×P parameters (`draws.View.packed`)."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.draws = Draws(recipe, seed)
        self.size = recipe.image_size

    def __call__(self, image: Image.Image, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        """Of image `number` in `epoch`; it is decoded here, once for both views."""
        if not isinstance(image, JpegImageFile):
            image.load()  # an icon's size, for one, is not known before
        query, key = views = [self.draws(image.width, image.height, epoch, number, view) for view in (0, 1)]
        pixels, factor = decode(image, shrink([query.crop, key.crop], self.size))
        crops = [resized_crop(pixels, view.crop, factor, self.size) for view in views]
        return torch.stack(crops), packed(views)


class Finish:
    """The finisher: crops and parameters in host memory -> im_q and im_k on a device."""

    def __init__(self, recipe: Recipe) -> None:
        self.grey_first = recipe.augmentation == "v1"
        self.memory = Memory()

    def __call__(self, views: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """N×2×3×S×S uint8 and N×2×P float32 -> two N×3×S×S float32, normalised; the host does not wait for a GPU."""
        crops, parameters = views
        jobs = [unpacked(row) for row in parameters.flatten(0, 1).tolist()]
        shape = (len(crops), *crops.shape[2:])
        if device.type == "cpu":
            im_q, im_k = self.memory.take(shape), self.memory.take(shape)
            self.one_by_one(crops, jobs, im_q, im_k)
            return im_q, im_k
        im_q, im_k = torch.empty(shape, device=device), torch.empty(shape, device=device)
        crops = crops.to(device, non_blocking=True)
        for start in range(0, len(crops), CHUNK):
            end = min(start + CHUNK, len(crops))
            self.together(crops[start:end], jobs[2 * start : 2 * end], im_q[start:end], im_k[start:end])
        return im_q, im_k

    def one_by_one(self, crops: Tensor, jobs: list[Job], im_q: Tensor, im_k: Tensor) -> None:
        """For a CPU: an image's passes find it in the cache, and what it does not need is not computed."""
        values, room = im_q.new_empty(1, *crops.shape[2:]), im_q.new_empty(Pictures.PLANES, 1, *crops.shape[3:])
        outs = (view for pair in zip(im_q.unsqueeze(1), im_k.unsqueeze(1), strict=True) for view in pair)
        for crop, job, out in zip(crops.flatten(0, 1).unsqueeze(1), jobs, outs, strict=True):
            pictures = Pictures(values.copy_(crop.flip(-1) if job.flip else crop), 1 / 255, 0.0, room)
            if job.grey and self.grey_first:
                pictures.grey()
            # In the order of their numbers, by which the jitter's order names them.
            steps = (pictures.brightness, pictures.contrast, pictures.saturation, pictures.hue)
            for step in job.order:
                steps[step](job.factors[step])
            if job.grey and not self.grey_first:
                pictures.grey()
            if job.sigma > 0:
                pictures.blur(job.sigma)
            pictures.normalised(IMAGENET_MEAN, IMAGENET_STD, out)

    def together(self, crops: Tensor, jobs: list[Job], im_q: Tensor, im_k: Tensor) -> None:
        """For a GPU: few operations on many images.

        In a jitter's order hue is first to last, or there is no jitter: images are sorted by that, so that those whose
        hue is due are neighbours. The other three are blends of one kind, and the factors say which is meant.
        """
        order = sorted(range(len(jobs)), key=lambda number: _turn_of_hue(jobs[number]))
        jobs = [jobs[number] for number in order]
        send = partial(_send, device=crops.device)
        flip, which = send([job.flip for job in jobs]), send([job.grey for job in jobs])
        crops = crops.flatten(0, 1).index_select(0, send(order).flatten())
        pictures = Pictures.of(torch.where(flip, crops.flip(-1), crops).float(), 1 / 255)
        if self.grey_first:
            pictures.grey(which)
        turns = [_turn_of_hue(job) for job in jobs]
        jittered = pictures.part(slice(0, bisect_left(turns, NO_JITTER)))
        for turn in range(4):
            due = slice(bisect_left(turns, turn), bisect_right(turns, turn))
            if shifts := [job.factors[HUE_SHIFT] for job in jobs[due]]:
                pictures.part(due).hue(send(shifts), small=max(map(abs, shifts)) <= 1 / 6)
            if turn < 3 and len(jittered):
                blends = [_blend(job, turn) for job in jobs[: len(jittered)]]
                jittered.blend(*(send(factors) for factors in zip(*blends, strict=True)))
        pictures.rejoin(jittered)
        if not self.grey_first:
            pictures.grey(which)
        if any(job.sigma > 0 for job in jobs):
            pictures.blur(send([job.sigma for job in jobs]))
        done = torch.empty_like(pictures.values)
        pictures.normalised(IMAGENET_MEAN, IMAGENET_STD, done)
        place = sorted(range(len(order)), key=order.__getitem__)
        torch.index_select(done, 0, send(place[0::2]).flatten(), out=im_q)
        torch.index_select(done, 0, send(place[1::2]).flatten(), out=im_k)


class Memory:
    """Host memory for batches, used again once no tensor refers to it.

    A fresh page costs the kernel as much time as two operations on it, and a large tensor's pages are fresh every time.
    """

    def __init__(self) -> None:
        self.arrays: list[npt.NDArray[np.float32]] = []

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of this shape, float32, with any content."""
        self.arrays = [array for array in self.arrays if array.shape == shape]
        for array in self.arrays:
            # A tensor's storage, shared by its views and by what autograd keeps, holds a reference to the array; the
            # others are the list's, the loop's and this call's.
            if sys.getrefcount(array) == 3:
                return torch.from_numpy(array)
        self.arrays.append(np.empty(shape, np.float32))
        return torch.from_numpy(self.arrays[-1])


NO_JITTER = 4


def _turn_of_hue(job: Job) -> int:
    """How many operations of the jitter come before hue; `NO_JITTER` where there is none."""
    return job.order.index(HUE_SHIFT) if job.order else NO_JITTER


def _blend(job: Job, turn: int) -> list[float]:
    """Factors of brightness, contrast and saturation, 1 but for the one whose turn it is when hue is left out."""
    due = [step for step in job.order if step != HUE_SHIFT][turn]
    return [job.factors[step] if step == due else 1.0 for step in (BRIGHTNESS, CONTRAST, SATURATION)]


def _send(numbers: Sequence[float], device: torch.device) -> Tensor:
    """A number for each image, N×1×1×1, of the type that they have; without waiting for the device."""
    host = torch.tensor(numbers)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True).view(-1, 1, 1, 1)
