"""The task `knn`: a weighted vote among the nearest training images in feature space.

One exact search at the largest k serves every k. Shapes: Q queries, k neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converters.errors import UserError
from evaluators.datasets import image_folder
from evaluators.features.compute import Features
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, Metric, Outcome
from evaluators.knn.search import nearest, unit
from evaluators.predictions import accuracy, write_predictions
from evaluators.settings.knn import KnnSettings

TOP = 5
_CHUNK = 1024
"""Queries whose votes (chunk×C) are held at a time."""


def evaluate(job: Job) -> Outcome:
    """Run a kNN protocol; writes `predictions.npz` to the job's folder.

    The metrics are `top1_k20`, `top5_k20`, ... in percent over the validation images.

    Raises:
        UserError: for a data set that is no image folder, or a k list without the headline's k.
        CheckFailed: if the receipt does not hold, or a feature is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, KnnSettings), settings.task
    _headline_is_measured(job.protocol.headline, settings)
    data = image_folder.read(job.data)
    frozen = freeze(job.backbone, job.device, [view_of(job, settings)])
    (bank,), (queries,) = (extract(job, frozen, split, settings) for split in (data.train, data.val))
    receipt = frozen.still_frozen()

    ranked = classify(
        bank, queries.values, ks=settings.k, num_classes=len(data.classes), temperature=settings.temperature
    )
    write_predictions(job.workdir, data, {f"k{k}": top[:, 0] for k, top in ranked.items()})
    metrics = tuple(
        Metric(
            name=f"top{top}_k{k}",
            value=accuracy(ranked[k], queries.labels, top),
            unit="%",
            higher_is_better=True,
            n=len(data.val),
        )
        for k in settings.k
        for top in (1, TOP)
    )
    capped = ", ".join(str(k) for k in settings.k if k > len(data.train))
    notes = (f"k {capped} capped at the {len(data.train)} training images",) if capped else ()
    return Outcome(metrics=metrics, receipt=receipt, dataset=data.card, notes=notes)


def classify(
    bank: Features, queries: NDArray[np.float32], *, ks: Sequence[int], num_classes: int, temperature: float
) -> dict[int, NDArray[np.int64]]:
    """For each k the ranked classes Q×5 of `vote`, all from one search at the largest k.

    Args:
        bank: N×D features of the training images, of any length, and their classes.
        queries: Q×D features.
        ks: numbers of neighbours; one beyond N means N.
        num_classes: C.
        temperature: T.
    """
    similarities, neighbours = nearest(unit(bank.values), unit(queries), min(max(ks), len(bank.values)))
    labels = bank.labels[neighbours]
    return {k: vote(similarities[:, :k], labels[:, :k], num_classes=num_classes, temperature=temperature) for k in ks}


def vote(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], *, num_classes: int, temperature: float
) -> NDArray[np.int64]:
    """The five classes with the most votes, best first: every neighbour votes for its class with exp(cos / T).

    Among equal votes the lower class index comes first. Where fewer than five classes got a vote, the rest is -1.

    Args:
        similarities: Q×k cosines in falling order.
        labels: Q×k classes of these neighbours, 0 to C - 1.
        num_classes: C.
        temperature: T.

    Returns:
        Q×5.
    """
    ranked = np.full((len(similarities), TOP), -1, dtype=np.int64)
    for start in range(0, len(similarities), _CHUNK):
        cosines = similarities[start : start + _CHUNK].astype(np.float64)
        # Divided by the largest weight: the ranking stays, and a small T cannot overflow.
        weights = np.exp((cosines - cosines[:, :1]) / temperature)
        rows = len(cosines)
        slots = (np.arange(rows)[:, None] * num_classes + labels[start : start + _CHUNK]).ravel()
        votes = np.bincount(slots, weights.ravel(), minlength=rows * num_classes)
        votes[np.bincount(slots, minlength=rows * num_classes) == 0] = -1.0
        votes = votes.reshape(rows, num_classes)
        best = np.argsort(-votes, axis=1, kind="stable")[:, :TOP]
        got_a_vote = np.take_along_axis(votes, best, axis=1) >= 0
        ranked[start : start + rows, : best.shape[1]] = np.where(got_a_vote, best, -1)
    return ranked


def _headline_is_measured(headline: str, settings: KnnSettings) -> None:
    names = [f"top{top}_k{k}" for k in settings.k for top in (1, TOP)]
    if headline not in names:
        raise UserError(
            expected=f"a list of k that gives the headline {headline}",
            found=str(list(settings.k)),
            where="settings.k",
            cure=f"keep {headline.rpartition('_k')[2]} in it",
        )
