"""mIoU, mAcc and aAcc with all their digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.evaluation import IoUMetric
from torch import Tensor


class UnroundedIoU(IoUMetric):  # type: ignore[misc]  # mmseg ships no types
    """mmseg's metric over one confusion matrix, which it adds up in float32 and rounds to two decimals."""

    def compute_metrics(self, results: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> dict[str, float]:
        """The metrics in percent; mmseg logs its table of classes.

        Args:
            results: for each image the pixels of every class in the intersection, the union, the prediction and the
                ground truth; each of shape (classes,).
        """
        super().compute_metrics(results)
        intersection, union, _, truth = (torch.stack(areas).double().sum(0) for areas in zip(*results, strict=True))
        # A class that is nowhere has no IoU, and one that no pixel is labelled with no accuracy: 0 / 0 is left out.
        return {
            "mIoU": 100 * float((intersection / union).nanmean()),
            "mAcc": 100 * float((intersection / truth).nanmean()),
            "aAcc": 100 * float(intersection.sum() / truth.sum()),
        }
