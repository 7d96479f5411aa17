"""The task `manyshot`: logistic regression on the frozen features of all training images, over many data sets.

The reference is linusericsson/ssl-transfer@416913f linear.py. For images with one class the regression is multinomial;
for VOC2007 there is one of two classes for every object class, and each starts from the one before.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from converters.distributed import gather_values, rank, together
from converters.errors import UserError
from converters.files import whole
from evaluators import by_products
from evaluators.datasets import classification, voc_labels
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.datasets.labels import one_class_an_image
from evaluators.datasets.metrics import METRICS
from evaluators.datasets.voc import read_split
from evaluators.features.compute import Features, notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, Metric, Outcome
from evaluators.linear import search
from evaluators.linear.logistic import Logistic, Rows, fit, zeros
from evaluators.linear.resume import Unfinished
from evaluators.predictions import accuracy
from evaluators.predictions import rank as ranked
from evaluators.settings.logistic import ManyshotSettings

CLASSES = "average_precision.csv"
"""For VOC2007: one line a class."""
_BLOCK = 1 << 14


def evaluate(job: Job) -> Outcome:
    """Run a many-shot protocol; writes `regularisation.csv` and the by-products, or `average_precision.csv`.

    The metrics are `top1`, `top5` and `mean_per_class`, or `map11`, in percent over the validation or test images. An
    evaluation that was cut off goes on behind the last λ that was done.

    Raises:
        UserError: for a data set in another layout, or a class that the part which chooses λ leaves without an image.
        CheckFailed: if the receipt does not hold, or a feature or an objective is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, ManyshotSettings), settings.task
    several = settings.metric == "map11"
    data = voc_labels.read(settings, job.data) if several else classification.read(job.data)
    metric_fits(data.card.layout, settings.metric)
    kept, out = _listed_parts(data, settings, job.data) if several else parts(data, settings)
    classes = _learnable(data, kept, out) if several else tuple(range(len(data.classes)))
    frozen = freeze(job.backbone, job.device, [view_of(job, settings)])
    (bank,), (test,) = (extract(job, frozen, split, settings) for split in (data.train, data.val))
    receipt = frozen.still_frozen()

    # One multinomial regression, or one of two classes for each object class.
    targets = [(bank.labels[:, c] == 1).astype(np.int64) for c in classes] if several else [bank.labels]
    regressions = _Regressions(job, settings, bank, targets, 2 if several else len(classes))
    # To ssl-transfer an image whose objects of a class are all difficult is a negative one, in the test too.
    labels = (bank.labels[:, classes] == 1) if several else bank.labels
    choose = Unfinished(job, data.card.fingerprint)
    chosen = regressions.choose(kept, lambda logits: _score(settings.metric, logits, labels[out]), out, choose)
    models = regressions.fit(regressions.rows(np.arange(len(bank.labels))), chosen)
    logits = gather_values(_logits(models, test.values))[0]
    ends = sorted({model.reason for model in models if not model.converged})
    within = f"{len(models) - sum(not model.converged for model in models)} of {len(models)}"
    notes = [
        f"λ {chosen:g} chosen on {len(out)} of {len(bank.labels)} training images; {within} final fits converged"
        + (f", the others ended with: {'; '.join(ends)}" if ends else ""),
        *search.edge_note(settings, chosen),
        *notes_of(bank, test),
    ]
    if several:
        truth = test.labels[:, classes] == 1
        found = {"map11": _score("map11", logits, truth)}
        together(lambda: _write_classes(job.workdir / CLASSES, [data.classes[c] for c in classes], logits, truth))
        left_out = [name for index, name in enumerate(data.classes) if index not in classes]
        notes += [f"without images to learn or judge: {', '.join(left_out)}"] if left_out else []
    else:
        best = ranked(torch.from_numpy(logits[0])).numpy()
        found = {
            "top1": accuracy(best, test.labels, 1),
            "top5": accuracy(best, test.labels, 5),
            "mean_per_class": _score("mean_per_class", logits, test.labels),
        }
        by_products.write(job.workdir, data, torch.from_numpy(logits[0]), {"last": best[:, 0]})
    return Outcome(
        metrics=tuple(
            Metric(name=name, value=value, unit="%", higher_is_better=True, n=len(data.val))
            for name, value in found.items()
        ),
        receipt=receipt,
        dataset=data.card,
        notes=tuple(notes),
    )


def metric_fits(layout: str, metric: str) -> None:
    """Refuse the metric that ssl-transfer does not use for a data set that is known by its layout.

    Raises:
        UserError: naming the protocol that does.
    """
    expected = METRICS.get(layout, metric)
    if metric not in (expected, "map11"):
        raise UserError(
            expected=f"the metric {expected}, as the reference has it for {layout}",
            found=metric,
            where="settings.metric",
            cure=f"use {'manyshot@1' if expected == 'top1' else 'manyshot-mean@1'}",
        )


@dataclass
class _Regressions:
    """One regression for each of `targets`, each started from the one before, whatever that one learnt."""

    job: Job
    settings: ManyshotSettings
    bank: Features
    targets: Sequence[NDArray[np.int64]]
    """N class indices each."""
    classes: int
    last: Logistic = field(init=False)

    def __post_init__(self) -> None:
        self.last = zeros(self.bank.values.shape[1], self.classes, self.job.device)

    def rows(self, indices: NDArray[np.int64]) -> Rows:
        dtype = torch.float32 if self.settings.solver_precision == "float32" else torch.float64
        return Rows(self.bank.values, self.targets[0], indices, device=self.job.device, dtype=dtype)

    def fit(self, rows: Rows, penalty: float) -> list[Logistic]:
        models = []
        for labels in self.targets:
            model = fit(
                rows.relabelled(labels),
                self.last,
                penalty=penalty,
                iterations=self.settings.iterations,
                tolerance=self.settings.tolerance,
                until="small-steps",
            )
            self.last.weight.copy_(model.weight)
            self.last.bias.copy_(model.bias)
            models.append(model)
        return models

    def choose(
        self,
        kept: NDArray[np.int64],
        score: Callable[[NDArray[np.float64]], float],
        out: NDArray[np.int64],
        unfinished: Unfinished,
    ) -> float:
        """The λ with the best score on the held-out images."""
        state = {"weight": self.last.weight, "bias": self.last.bias}
        facts = unfinished.load(state) or {"attempts": []}
        rows = self.rows(kept)

        def attempt(penalty: float) -> tuple[float, int, bool, str]:
            models = self.fit(rows, penalty)
            value = gather_values(score(_logits(models, self.bank.values[out])))[0]
            # Of several regressions: the most iterations, and the end of one that did not converge.
            last = min(models, key=lambda model: model.converged)
            return value, max(model.iterations for model in models), last.converged, last.reason

        def save(done: list[search.Attempt]) -> None:
            table = self.job.workdir / search.TABLE
            unfinished.save(state, {"attempts": done}, lambda: search.write_attempts(table, done))

        done: list[search.Attempt] = [(*each,) for each in facts["attempts"]]
        return search.search(self.settings, attempt, done, save, converged_first=False)


def _logits(models: Sequence[Logistic], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of M models on N features: M×N×C."""
    device = models[0].weight.device
    found = []
    for model in models:
        blocks = [
            model.logits(torch.tensor(values[first : first + _BLOCK], dtype=torch.float64, device=device)).cpu()
            for first in range(0, len(values), _BLOCK)
        ]
        found.append(torch.cat(blocks).numpy())
    return np.stack(found)


def _score(metric: str, logits: NDArray[np.float64], labels: NDArray[np.int64] | NDArray[np.bool_]) -> float:
    """A metric in percent, from M×N×C logits and the labels: N class indices (M = 1), or N×M for `map11` (C = 2)."""
    if metric == "map11":
        return 100.0 * float(np.mean([_precision(each, labels[:, m] == 1) for m, each in enumerate(logits)]))
    right = logits[0].argmax(axis=1) == labels
    if metric == "top1":
        return 100.0 * float(right.mean())
    return 100.0 * float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _precision(logits: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    return eleven_point(positive, logits[:, 1] - logits[:, 0])


def eleven_point(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Average precision, 0 to 1: the mean over the recalls 0, 0.1, …, 1 of the best precision at that recall or beyond.

    As ssl-transfer computes it from scikit-learn's curve, which ends at precision 1 and recall 0: the first of the
    eleven is always 1. Images with equal scores are one point of the curve.

    Args:
        positive: N, at least one of which is true.
        scores: N, higher for more likely positive images.
    """
    precision, recall, _ = precision_recall_curve(positive, scores)
    return float(np.mean([precision[recall >= level].max() for level in np.linspace(0, 1, 11)]))


def parts(data: LabelledImages, settings: ManyshotSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What stays and what chooses λ: the data set's own validation images, else a random share, not stratified.

    Raises:
        UserError: for a class that is left without an image to learn from, or where nothing is left to choose on.
    """
    one_class_an_image(data)
    n, labels = len(data.train), data.train.labels
    if data.validation is not None and 0 < len(data.validation) < n:
        return np.setdiff1d(np.arange(n), data.validation), data.validation
    # The reference's generator, so that the same list of images gives its parts.
    shuffled = np.random.RandomState(settings.held_out_seed).permutation(n)
    out, kept = np.split(shuffled, [int(settings.held_out * n)])
    counts = np.bincount(labels[kept], minlength=len(data.classes))
    if not len(out) or (counts == 0).any():
        found = f"no image of {data.classes[int(np.argmin(counts))]}" if len(out) else "no image held out"
        raise UserError(
            expected="training images of every class beside those held out",
            found=found,
            where=f"{data.root} train",
            cure="add images, or use a protocol that chooses nothing, as linear-moco@1",
        )
    return np.sort(kept), np.sort(out)


def _listed_parts(
    data: LabelledImages, settings: ManyshotSettings, root: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same by the list of a split, which must be a part of the training split.

    Raises:
        UserError: if it is not, or nothing is left beside it.
    """
    held_out = {image.file for image in read_split(root, settings.held_out_split).images}
    chosen = np.array([path in held_out for path in data.train.paths])
    if chosen.sum() != len(held_out) or chosen.all():
        raise UserError(
            expected=f"a part of {settings.train_split}, and not all of it",
            found=f"{int(chosen.sum())} of its {len(data.train)} images in a list of {len(held_out)}",
            where=f"{root} {settings.held_out_split}",
        )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _learnable(data: LabelledImages, kept: NDArray[np.int64], out: NDArray[np.int64]) -> tuple[int, ...]:
    """The classes that some images have and some have not: to learn, to choose λ and to test.

    Raises:
        UserError: if there is none.
    """
    parts: list[Split] = [data.train.take(kept), data.train.take(out), data.val]
    both = [((part.labels == 1).any(axis=0)) & ((part.labels != 1).any(axis=0)) for part in parts]
    found = tuple(int(index) for index in np.flatnonzero(np.all(both, axis=0)))
    if not found:
        raise UserError(
            expected="a class with and without images in every part", found="none", where=data.root, cure="add images"
        )
    return found


def _write_classes(path: Path, names: Sequence[str], logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> None:
    if rank() == 0:
        with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("class", "positive", "ap11"))
            for m, name in enumerate(names):
                ap = 100.0 * _precision(logits[m], truth[:, m])
                table.writerow((name, int(truth[:, m].sum()), f"{ap:.3f}"))
