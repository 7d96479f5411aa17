"""The training of heads, an epoch at a time: the order of the images, the schedule, and heads that diverge."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converters.distributed import rank
from converters.errors import CheckFailed
from converters.progress import Progress
from evaluators.images import stream
from evaluators.linear.heads import Heads

ORDER = 1
"""The stream of a seed from which the order of the images is drawn."""

EpochOfBatches = Callable[[int, Sequence[int]], Iterator[tuple[Tensor, Tensor]]]
"""Features B×D and labels B of each batch, by epoch and order of the images."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch showed of H heads."""

    number: int
    """1 is the first."""
    scale: float
    """By which the learning rates were multiplied."""
    loss: list[float]
    """Mean cross-entropy over the images of the epoch, for each head; NaN for one that diverged."""
    train_top1: list[float]
    """Percent of the augmented images, each before the step that it took part in."""


@dataclass
class Diverged:
    """The heads whose loss ceased to be finite, and when."""

    heads: dict[int, str] = field(default_factory=dict)
    """By index of the head, as `the loss is nan at epoch 1, step 2 with lr 30`."""

    def add(self, values: Sequence[float], what: str, when: str, lr: Sequence[float]) -> None:
        """Remember the heads whose value is not finite, unless they are here already, with their learning rate then.

        Raises:
            CheckFailed: once no head is left.
        """
        for head, value in enumerate(values):
            if not math.isfinite(value):
                self.heads.setdefault(head, f"the {what} is {value} at {when} with lr {lr[head]:g}")
        if len(self.heads) == len(values):
            which = "" if len(values) == 1 else f"all {len(values)} heads diverged, the last: "
            last = list(self.heads.values())[-1]
            raise CheckFailed(f"linear probe: {which}{last}: it is too large for this batch and these features")


def order(n: int, seed: int, epoch: int) -> list[int]:
    """The order of the n training images in an epoch (0 is the first)."""
    generator = torch.Generator().manual_seed(stream(seed, ORDER, epoch))
    permutation: list[int] = torch.randperm(n, generator=generator).tolist()
    return permutation


def scale(milestones: Sequence[int], epoch: int) -> float:
    """By what the learning rates are multiplied in an epoch (0 is the first): a tenth for every milestone reached."""
    factor: float = 0.1 ** sum(epoch >= milestone for milestone in milestones)
    return factor


def train(
    heads: Heads,
    batches: EpochOfBatches,
    *,
    epochs: int,
    milestones: Sequence[int],
    n: int,
    seed: int,
    first: int = 0,
    diverged: Diverged | None = None,
    label: str = "linear",
) -> Iterator[Epoch]:
    """Train the heads in place, an epoch for each value that is asked for.

    Args:
        heads: as they are before epoch `first`.
        batches: an epoch's batches of features.
        epochs: how many in all.
        milestones: epochs after which the learning rates fall tenfold.
        n: how many images an epoch has.
        seed: of the order.
        first: the epochs that are done already.
        diverged: where heads are noted whose loss or weights are not finite.
        label: what the progress display says.

    Raises:
        CheckFailed: once every head has diverged.
    """
    diverged = Diverged() if diverged is None else diverged
    shown = sys.stderr if rank() == 0 else io.StringIO()
    with Progress(label, (epochs - first) * n, unit="img", stream=shown) as progress:
        for epoch in range(first, epochs):
            factor = scale(milestones, epoch)
            rates = [lr * factor for lr in heads.lr]
            loss_sum = torch.zeros(len(heads), dtype=torch.float64)
            hits = torch.zeros(len(heads), dtype=torch.int64)
            for step, (features, labels) in enumerate(batches(epoch, order(n, seed, epoch))):
                loss, right = heads.step(features, labels, factor)
                values = loss.double().cpu()
                if not bool(values.isfinite().all()):
                    diverged.add(values.tolist(), "loss", f"epoch {epoch + 1}, step {step + 1}", rates)
                loss_sum += values * len(labels)
                hits += right.cpu()
                best = float(values.nan_to_num(nan=math.inf).min())
                progress.step(len(labels), epoch=epoch + 1, loss=best)
            finite = torch.where(heads.finite().cpu(), 0.0, math.nan)
            diverged.add(finite.tolist(), "weight", f"the end of epoch {epoch + 1}", rates)
            yield Epoch(epoch + 1, factor, (loss_sum / n).tolist(), (100.0 * hits / n).tolist())
