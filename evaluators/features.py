"""Frozen features: the live backbone with its receipt, and one feature an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.progress import Progress
from converters.receipt import Receipt, module_receipt, still_frozen
from evaluators.datasets.image_folder import Sample
from evaluators.images import Batches, Images, Transform, read_back


@dataclass(frozen=True)
class Frozen:
    """A live backbone that must not change, and the proof that it is the right one."""

    module: nn.Module
    """N×3×H×W -> N×D, in eval mode, nothing trainable."""
    receipt: Receipt

    def still_frozen(self) -> Receipt:
        """The receipt completed after the evaluation.

        Raises:
            CheckFailed: if a single bit of the backbone changed.
        """
        return still_frozen(self.receipt, self.module.state_dict())


def freeze(backbone: Backbone, device: torch.device, transforms: Sequence[Transform]) -> Frozen:
    """The backbone as a live torchvision module on `device`, checked before it sees an image.

    Args:
        backbone: the weights and the input that they want.
        device: where it shall run.
        transforms: all transforms through which images will reach it; each is measured.

    Raises:
        CheckFailed: if the live tensors, the stride position or what a transform does differ from the backbone.
    """
    module = backbone.module().to(device).requires_grad_(requires_grad=False).eval()
    receipts = [module_receipt(module, backbone.metadata, read_back(transform)) for transform in transforms]
    return Frozen(module=module, receipt=receipts[0])


@dataclass(frozen=True)
class Features:
    """One row an image, in the order of the samples."""

    values: NDArray[np.float32]
    """N×D."""
    labels: NDArray[np.int64]
    """N."""


def extract(
    module: nn.Module, samples: Sequence[Sample], transform: Transform, *, batch_size: int, workers: int, label: str
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
    labels = np.empty(len(samples), dtype=np.int64)
    done = 0
    with torch.inference_mode(), Progress(label, len(samples), unit="img") as progress:
        for images, targets in batches(0, range(len(samples))):
            batch = module(images.to(device, non_blocking=True)).float().cpu().numpy()
            finite = np.isfinite(batch).all(axis=1)
            if not finite.all():
                path = samples[done + int(np.argmin(finite))].path
                raise CheckFailed(f"the feature of {path} holds NaN or infinity: the backbone cannot be evaluated")
            if values is None:
                values = np.empty((len(samples), batch.shape[1]), dtype=np.float32)
            values[done : done + len(batch)] = batch
            labels[done : done + len(batch)] = targets.numpy()
            done += len(batch)
            progress.step(len(batch))
    assert values is not None, "no sample"
    assert done == len(samples), "an image was lost or doubled"
    return Features(values=values, labels=labels)
