"""The nearest training images of some images, with their classes: one search for all k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from converters import distributed
from converters.errors import CheckFailed, UserError
from evaluators.features.compute import Features
from evaluators.knn.engines.choose import choices, first_that_works
from evaluators.knn.search import OVERFETCH, nearest
from evaluators.settings.knn import KnnSettings


@dataclass(frozen=True)
class Neighbours:
    """Of Q queries the K nearest, nearest first."""

    similarities: NDArray[np.float32]
    """Q×K cosines."""
    indices: NDArray[np.int64]
    """Q×K, into the bank; -1 where a search that is not exact found fewer."""
    labels: NDArray[np.int64]
    """Q×K classes; -1 likewise."""
    engine: str
    """What searched, and why nothing better did."""


def find_neighbours(
    bank: Features,
    queries: NDArray[np.float32],
    settings: KnnSettings,
    *,
    num_classes: int,
    device: torch.device,
    label: str | None = None,
) -> Neighbours:
    """The nearest neighbours at the largest k of the settings, or all where the bank is smaller.

    Args:
        bank: N×D features of the training images, of any length, and their classes.
        queries: Q×D features.
        settings: how many, and how to search.
        num_classes: C.
        device: where to search.
        label: what a progress display says; None for none.

    Raises:
        CheckFailed: if a feature is not finite, a label has no class, or bank and queries differ in D.
        UserError: for an empty bank, or images with several classes.
    """
    labels_have_classes(bank.labels, num_classes, "training")
    k = min(max(settings.k), len(bank.values))
    remarks: list[str] = []
    (similarities, indices), engine = first_that_works(
        choices(device, settings.search, settings.probes, width=k + OVERFETCH, processes=distributed.size()),
        lambda engine: nearest(
            bank.values, queries, k, engine=engine, memory=settings.search_memory, label=label, remarks=remarks
        ),
    )
    labels = np.where(indices < 0, -1, bank.labels[indices])
    return Neighbours(similarities, indices, labels, "; ".join([engine, *remarks]))


def labels_have_classes(labels: NDArray[np.int64], num_classes: int, name: str) -> None:
    """Check labels N against C classes.

    Args:
        labels: as they are with the features.
        num_classes: C.
        name: what the images are called in a message.

    Raises:
        CheckFailed: for a label outside 0 to C - 1.
        UserError: for images with several classes.
    """
    if labels.ndim != 1:
        raise UserError(
            expected="one class an image",
            found=f"several ({labels.shape[1]} columns)",
            where="kNN",
            cure="use a protocol for images with several classes, as svm-voc07@1",
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = outside[0]
        raise CheckFailed(
            f"{name} image {first} has the label {labels[first]}, but the classes are 0 to {num_classes - 1}"
        )
