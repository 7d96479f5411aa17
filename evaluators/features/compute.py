"""One pass over the images: one feature an image, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.errors import CheckFailed
from converters.progress import Progress
from evaluators.datasets.labelled import Split
from evaluators.images import Batches, Images, Transform


@dataclass(frozen=True)
class Features:
    """One row an image, in the order of the samples."""

    values: NDArray[np.float32]
    """N×D, read only; memory-mapped where it comes from the cache."""
    labels: NDArray[np.int64]
    """N, or N×C (see `evaluators.datasets.labelled.Split`)."""
    note: str | None = None
    """What the reader of a number from them must know: that another device, or other versions, computed them."""

    def tensor(self, device: torch.device) -> Tensor:
        """The values on a device: N×D float32, a copy that may be written to."""
        return torch.tensor(self.values, device=device)


def notes_of(*features: Features) -> tuple[str, ...]:
    """Their notes, each once, in their order."""
    return tuple(dict.fromkeys(each.note for each in features if each.note is not None))


def compute(
    module: nn.Module, samples: Split, transform: Transform, *, batch_size: int, workers: int, label: str
) -> Features:
    """The features of all samples, in their order: none lost, none doubled.

    Args:
        module: N×3×H×W -> N×D in eval mode; images are sent to the device of its parameters.
        samples: N of them, at least one.
        transform: must not draw at random.
        batch_size: the last batch may be smaller.
        workers: processes that decode images.
        label: what the progress display says.

    Raises:
        UserError: for an image that cannot be decoded.
        CheckFailed: if a feature is NaN or infinite, naming the image.
    """
    device = next(module.parameters()).device
    batches = Batches(Images(samples, transform), batch_size=batch_size, workers=workers, pin=device.type == "cuda")
    values: NDArray[np.float32] | None = None
    done = 0
    with torch.inference_mode(), Progress(label, len(samples), unit="img") as progress:
        for images, _ in batches(0, range(len(samples))):
            batch = module(images.to(device, non_blocking=True)).float().cpu().numpy()
            check_finite(batch, samples, range(done, done + len(batch)))
            if values is None:
                values = np.empty((len(samples), batch.shape[1]), dtype=np.float32)
            values[done : done + len(batch)] = batch
            done += len(batch)
            progress.step(len(batch))
    assert values is not None, "no sample"
    assert done == len(samples), "an image was lost or doubled"
    return Features(values=values, labels=samples.labels)


def check_finite(values: NDArray[np.float32], samples: Split, indices: Sequence[int]) -> None:
    """Prove that the features B×D of these images are numbers.

    Raises:
        CheckFailed: naming the first image whose feature is NaN or infinite.
    """
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        path = samples.paths[indices[int(np.argmin(finite))]]
        raise CheckFailed(f"the feature of {path} holds NaN or infinity: the backbone cannot be evaluated")
