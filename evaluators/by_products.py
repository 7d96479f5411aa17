"""What a task with logits leaves in the cell's folder: predictions, and what the headline got wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from converters.distributed import rank, together
from evaluators.datasets.labelled import LabelledImages
from evaluators.mistakes import write_mistakes
from evaluators.predictions import write_predictions


def write(workdir: Path, data: LabelledImages, logits: Tensor, predicted: Mapping[str, NDArray[np.int64]]) -> None:
    """Write `predictions.npz` and the files of `evaluators.mistakes`; the main process does it, for all.

    Args:
        workdir: the cell's folder.
        data: whose validation images were classified.
        logits: N×C, of the headline's classifier.
        predicted: N class indices by the name of each classifier; the headline's is the first.

    Raises:
        UserError, CheckFailed: in every process, where a file cannot be written.
    """

    def action() -> None:
        if rank() == 0:
            write_predictions(workdir, data, predicted)
            headline = next(iter(predicted.values()))
            write_mistakes(workdir, data, headline, margins(logits, headline, data.val.labels))

    together(action)


def margins(
    logits: Tensor, predicted: NDArray[np.int64], labels: NDArray[np.int64], block: int = 1 << 12
) -> NDArray[np.float64]:
    """How much more probable than its true class each image's predicted class is, 0 to 1: N.

    Args:
        logits: N×C.
        predicted: N class indices, each with the largest logit.
        labels: N class indices.
        block: rows whose probabilities are held at a time.
    """
    found = np.empty(len(labels))
    for first in range(0, len(labels), block):
        rows = slice(first, first + block)
        p = logits[rows].double().softmax(dim=1).cpu().numpy()
        at = np.arange(len(p))
        found[rows] = p[at, predicted[rows]] - p[at, labels[rows]]
    return found
