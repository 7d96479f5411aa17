"""Augmented images as frozen features, batch by batch, shared among the processes of a group.

Every process sends its share of a batch's images through the backbone; then all hold the features of the whole batch,
and each takes the same step. What travels is B×D numbers, where gradients of the heads would be H×C×D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from converters.distributed import World, gather, rank, size, together
from converters.errors import CheckFailed, UserError
from evaluators.datasets.labelled import Split
from evaluators.features.frozen import Frozen
from evaluators.features.layers import POOLED
from evaluators.images import Batches, Images, View
from evaluators.settings.linear import ProbeSettings

AUGMENT = 2
"""The stream of a seed from which the views are drawn."""
_SAMPLE = 8
"""Images on which the folded network is held against the module."""


class FeatureBatches:
    """The global batches of an epoch as features. Every image counts once, however many processes there are.

    Args:
        frozen: the live backbone, with nothing in it to train.
        split: the training images.
        view: what is drawn of each.
        seed: of the draws.
        settings: global batch (the last one of an epoch may be smaller), workers of each process, precision.
        device: of the backbone.

    Raises:
        UserError: if the processes do not divide the batch.
        CheckFailed: if anything in the backbone can be trained.
    """

    def __init__(
        self, frozen: Frozen, split: Split, view: View, *, seed: int, settings: ProbeSettings, device: torch.device
    ) -> None:
        trainable = sum(parameter.requires_grad for parameter in frozen.module.parameters())
        if trainable:
            raise CheckFailed(
                f"linear probe: expected a frozen backbone, found {trainable} tensors that can be trained"
            )
        # In train mode its batch normalisation would learn from the images: the backbone stays as it was pretrained.
        frozen.module.eval()
        self._share = World(rank(), size(), size(), device).share(settings.batch_size, "batch_size")
        sample = together(lambda: _sample(split, view)).to(device)
        # The same computation as for the validation images: a folded copy that was held against the module. The proof
        # at the end of the evaluation is over this copy too.
        self._network = frozen.prepare(None, (POOLED,), precision=settings.precision, sample=sample)
        self._to_input, self._device, self._batch_size = view.to_input, device, settings.batch_size
        self._labels = torch.from_numpy(split.labels)
        images = Images(split, view.pixels, seed=(seed, AUGMENT))
        self._batches = Batches(images, batch_size=self._share, workers=settings.workers, pin=device.type == "cuda")

    def __call__(self, epoch: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Features B×D and labels B of each batch, in this order of the images.

        Raises:
            UserError: in every process, for an image that one of them cannot decode.
        """
        parts = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        mine = [part[_slice(len(part), rank())] for part in parts]
        local = self._batches(epoch, [index for part in mine for index in part])
        for part, own in zip(parts, mine, strict=True):
            features = self._features(local, len(part), len(own))
            yield features, self._labels[np.asarray(part)].to(self._device, non_blocking=True)

    def _features(self, local: Iterator[tuple[Tensor, Tensor]], whole: int, own: int) -> Tensor:
        if size() == 1:
            return self._forward(next(local)[0])
        # Shares of a smaller last batch differ by one: they are padded, and the padding is dropped. The last row says
        # whether this process met a fault, so that none waits for a process that left.
        rows = torch.zeros(self._share + 1, self._network.dims[0], device=self._device)
        fault: UserError | CheckFailed | None = None
        if own:
            try:
                rows[:own] = self._forward(next(local)[0])
            except (UserError, CheckFailed) as error:
                fault, rows[-1] = error, 1.0
        gathered = gather(rows).view(size(), self._share + 1, -1)
        if bool(gathered[:, -1, 0].any()):
            together(lambda: _raise(fault))
        bounds = [_slice(whole, number) for number in range(size())]
        return torch.cat([gathered[number, : part.stop - part.start] for number, part in enumerate(bounds)])

    def _forward(self, pixels: Tensor) -> Tensor:
        """B×H×W×3 of bytes -> B×D in float32."""
        (features,) = self._network(self._to_input.of_pixels(pixels.to(self._device, non_blocking=True)))
        return features


def _slice(n: int, number: int) -> slice:
    """Which of n images belong to a process: shares that differ by one at most."""
    return slice(n * number // size(), n * (number + 1) // size())


def _sample(split: Split, view: View) -> Tensor:
    """The first images, on which the folded network is held against the module."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        pixels = torch.stack([view.pixels(split.load(index)) for index in range(min(_SAMPLE, len(split)))])
    return view.to_input.of_pixels(pixels)


def _raise(fault: Exception | None) -> None:
    if fault is not None:
        raise fault
