"""Ranked classes of every validation image: the accuracy, and the file for whoever wants to look at the errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from converters import files
from evaluators.datasets.labelled import LabelledImages

FILE = "predictions.npz"


def rank(logits: Tensor) -> Tensor:
    """The five best classes, best first: N×C -> N×5 (N×C for fewer classes). Equal logits: the lower class first."""
    return logits.argsort(dim=1, descending=True, stable=True)[:, :5]


def accuracy(ranked: NDArray[np.int64], labels: NDArray[np.int64], top: int) -> float:
    """Percent of the N rows whose label (N) is among the first `top` of their ranked classes (N×M, best first)."""
    return 100.0 * float((ranked[:, :top] == labels[:, None]).any(axis=1).mean())


def write_predictions(workdir: Path, data: LabelledImages, predicted: Mapping[str, NDArray[np.int64]]) -> Path:
    """Write `predictions.npz`, whole or not at all.

    It holds `paths` (N, relative to the data set's root), `classes` (C names), `labels` (N) and, for each name of
    `predicted`, an array `predicted_NAME` (N class indices). No pickled object is in it.
    """
    arrays = {f"predicted_{name}": classes for name, classes in predicted.items()}
    with files.whole(workdir / FILE) as partial, partial.open("wb") as file:
        np.savez(
            file,
            paths=np.array([path.relative_to(data.root).as_posix() for path in data.val.paths]),
            classes=np.array(data.classes),
            labels=data.val.labels,
            **arrays,  # type: ignore[arg-type]  # the stub takes the names for `allow_pickle`
        )
    return workdir / FILE
