"""The task `fewshot`: nearest class prototype in many small episodes, on frozen features.

The reference is linusericsson/ssl-transfer@416913f few_shot.py.
"""

from __future__ import annotations

import csv
import math

import numpy as np
from numpy.typing import NDArray

from converters import files
from converters.distributed import rank, together
from converters.errors import UserError
from evaluators.datasets import classification
from evaluators.datasets.labels import one_class_an_image
from evaluators.features.compute import notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.fewshot.episodes import accuracy, draw
from evaluators.images import stream
from evaluators.job import Job, Metric, Outcome
from evaluators.settings.fewshot import FewshotSettings

EPISODES = "episodes.csv"


def evaluate(job: Job) -> Outcome:
    """Run a few-shot protocol; writes `episodes.csv` (the accuracy of each) to the job's folder.

    The metrics are `top1_Kshot`, the mean over episodes in percent, and `ci95_Kshot`, half its 95 % interval; n counts
    the queries of all episodes.

    Raises:
        UserError: for a data set that is no image folder, or too few classes with enough images for the headline.
        CheckFailed: if the receipt does not hold, or a feature is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, FewshotSettings), settings.task
    data = classification.read(job.data)
    one_class_an_image(data)
    labels = np.concatenate([data.train.labels, data.val.labels])
    members = {k: [np.flatnonzero(labels == c) for c in enough(labels, k, settings)] for k in settings.shots}
    possible = [k for k in settings.shots if len(members[k]) >= settings.way]
    _headline_is_measured(job, settings, possible, members)

    frozen = freeze(job.backbone, job.device, [view_of(job, settings)])
    (train,), (val,) = (extract(job, frozen, split, settings) for split in (data.train, data.val))
    receipt = frozen.still_frozen()
    features = np.concatenate([train.values, val.values])

    metrics, notes = [], []
    lines: list[tuple[int, int, str]] = []
    for k in settings.shots:
        if k not in possible:
            notes.append(f"no {k}-shot: {len(members[k])} classes have {k + settings.queries} images")
            continue
        if len(members[k]) < len(data.classes):
            notes.append(f"{k}-shot: {len(data.classes) - len(members[k])} classes with too few images are left out")
        accuracies = []
        for episode in range(settings.episodes):
            support, queries = draw(
                members[k], way=settings.way, shots=k, queries=settings.queries, seed=stream(job.seed, k, episode)
            )
            accuracies.append(100.0 * accuracy(features, support, queries))
        lines += [(k, episode + 1, f"{each:.4f}") for episode, each in enumerate(accuracies)]
        half = 1.96 * float(np.std(accuracies)) / math.sqrt(settings.episodes)
        n = settings.episodes * settings.way * settings.queries
        metrics.append(
            Metric(name=f"top1_{k}shot", value=float(np.mean(accuracies)), unit="%", higher_is_better=True, n=n)
        )
        metrics.append(Metric(name=f"ci95_{k}shot", value=half, unit="%", higher_is_better=False, n=n))

    def write() -> None:
        if rank() == 0:
            path = job.workdir / EPISODES
            with files.whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("shots", "episode", "accuracy"))
                writer.writerows(lines)

    together(write)
    return Outcome(metrics=tuple(metrics), receipt=receipt, dataset=data.card, notes=(*notes_of(train, val), *notes))


def enough(labels: NDArray[np.int64], shots: int, settings: FewshotSettings) -> NDArray[np.int64]:
    """The classes with as many images as an episode takes of one."""
    return np.flatnonzero(np.bincount(labels) >= shots + settings.queries)


def _headline_is_measured(
    job: Job, settings: FewshotSettings, possible: list[int], members: dict[int, list[NDArray[np.int64]]]
) -> None:
    headline = job.protocol.headline
    wanted = next((k for k in settings.shots if f"top1_{k}shot" == headline), None)
    if wanted is None:
        raise UserError(
            expected=f"shots that give the headline {headline}", found=str(list(settings.shots)), where="settings.shots"
        )
    if wanted not in possible:
        raise UserError(
            expected=f"{settings.way} classes with {wanted + settings.queries} images each (support and queries)",
            found=str(len(members[wanted])),
            where=job.data,
            cure="ask for fewer, as --set queries=5 or --set way=2",
        )
