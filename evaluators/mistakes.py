"""What a classifier got wrong: each class's accuracy, the confusions of the worst classes, the images got most wrong.

Three CSV files in the cell's folder, for whoever wants to know more than one number; made from the headline's
predictions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.files import whole
from evaluators.datasets.labelled import LabelledImages

PER_CLASS = "per_class.csv"
CONFUSIONS = "confusions.csv"
MOST_WRONG = "most_wrong.csv"
WORST_CLASSES = 20
CONFUSIONS_A_CLASS = 5
WORST_IMAGES = 100


def write_mistakes(
    workdir: Path, data: LabelledImages, predicted: NDArray[np.int64], margin: NDArray[np.floating] | None = None
) -> None:
    """Write the three files, each whole or absent.

    Args:
        workdir: the cell's folder.
        data: whose N validation images were predicted; one class an image.
        predicted: N class indices; -1 for none.
        margin: N, how far the predicted class was ahead of the true one, from 0 (right) to 1, as the difference of
            their probabilities or of their shares of the votes. None: there is no `most_wrong.csv`.

    Raises:
        UserError, CheckFailed: where a file cannot be written (see `converters.files.faults_of`).
    """
    labels = data.val.labels
    counts = np.bincount(labels, minlength=len(data.classes))
    right = np.bincount(labels[predicted == labels], minlength=len(data.classes))
    train = np.bincount(data.train.labels, minlength=len(data.classes))
    # A class without a validation image has no accuracy.
    accuracy = np.divide(100.0 * right, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    _write(
        workdir / PER_CLASS,
        ("class", "train_images", "val_images", "right", "accuracy"),
        (
            (name, train[index], counts[index], right[index], f"{accuracy[index]:.4f}" if counts[index] else "")
            for index, name in enumerate(data.classes)
        ),
    )
    measured = np.flatnonzero(counts)
    worst = measured[np.argsort(accuracy[measured], kind="stable")[:WORST_CLASSES]]
    _write(
        workdir / CONFUSIONS,
        ("class", "accuracy", "taken_for", "images", "share"),
        (row for index in worst for row in _confusions(index, accuracy[index], labels, predicted, data.classes)),
    )
    if margin is not None:
        wrong = np.flatnonzero(predicted != labels)
        images = wrong[np.argsort(-margin[wrong], kind="stable")[:WORST_IMAGES]]
        _write(
            workdir / MOST_WRONG,
            ("image", "class", "taken_for", "margin"),
            (
                (
                    data.val.paths[index].relative_to(data.root).as_posix(),
                    data.classes[labels[index]],
                    _name(predicted[index], data.classes),
                    f"{margin[index]:.6f}",
                )
                for index in images
            ),
        )


def _confusions(
    index: int, accuracy: float, labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]
) -> Iterable[tuple[object, ...]]:
    """The classes that the images of one class are most often taken for; the lower class first among equals."""
    taken, counts = np.unique(predicted[(labels == index) & (predicted != index)], return_counts=True)
    for place in np.argsort(-counts, kind="stable")[:CONFUSIONS_A_CLASS]:
        share = 100.0 * counts[place] / (labels == index).sum()
        yield classes[index], f"{accuracy:.4f}", _name(taken[place], classes), counts[place], f"{share:.4f}"


def _name(index: int, classes: Sequence[str]) -> str:
    return classes[index] if index >= 0 else ""


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
