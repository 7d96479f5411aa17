"""The task `svm`: one linear support vector machine a class on frozen features, tested by average precision.

Shapes: N training images, M test images, D features.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converters import distributed, files
from evaluators.datasets import voc_labels
from evaluators.features.compute import notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.features.layers import Layer
from evaluators.job import Job, Metric, Outcome
from evaluators.settings.svm import SvmSettings
from evaluators.svm.classifier import EveryCost, Rows, Tested, choose_and_test, unit_rows
from evaluators.svm.kept import Kept
from evaluators.svm.low_shot import Draws, LowShot, draw_all, few_images
from evaluators.svm.problem import Problem
from evaluators.svm.workers import shared

CLASSES, LOW_SHOT, MOST_WRONG = "svm.csv", "svm_low_shot.csv", "svm_most_wrong.csv"


def evaluate(job: Job) -> Outcome:
    """Run an SVM protocol; writes `svm.csv` (a line a layer and class) and `svm_low_shot.csv` to the job's folder.

    `svm_most_wrong.csv` has, of the best layer and each class, the 10 test images without it that have the highest
    scores and the 10 with it that have the lowest. The metrics are `mAP` of the best layer, `mAP_STAGE` of each, and
    `mAP_kK` for each low-shot K, in percent over the test images. An evaluation that was cut off goes on behind the
    classes, and the low-shot draws, that were done.

    Raises:
        UserError: for a damaged data set, or too few images of a class for a low-shot K.
        CheckFailed: if the receipt does not hold, or a feature is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, SvmSettings), settings.task
    data = voc_labels.read(settings, job.data)
    problem = Problem(data, settings, job.seed)
    draws = draw_all(problem)
    frozen = freeze(job.backbone, job.device, [view_of(job, settings)])
    train, test = (extract(job, frozen, split, settings, settings.layers) for split in (data.train, data.val))
    receipt = frozen.still_frozen()

    tested = {
        layer: all_classes(
            problem,
            unit_rows(train[at].values),
            unit_rows(test[at].values),
            Kept(job, data.card.fingerprint, f"svm-{layer.stage}", Tested),
            label=f"svm {layer.stage}",
        )
        for at, layer in enumerate(settings.layers)
    }
    means = {layer: float(np.mean([each.ap for each in found])) for layer, found in tested.items()}
    best = max(means, key=lambda layer: means[layer])  # among equals the earlier one
    at = settings.layers.index(best)
    low = few_images(
        problem,
        draws,
        unit_rows(train[at].values),
        unit_rows(test[at].values),
        Kept(job, data.card.fingerprint, f"svm-low-shot-{best.stage}", EveryCost),
    )

    def write() -> None:
        if distributed.rank() == 0:
            head = ("layer", "class", "C", "validation_ap", "ap")
            _write(job.workdir / CLASSES, head, _class_lines(problem, tested))
            _write(job.workdir / LOW_SHOT, ("k", "sample", "C", "mAP"), _low_lines(problem, low))
            wrong = _wrong_lines(problem, tested[best])
            _write(job.workdir / MOST_WRONG, ("class", "label", "image", "score"), wrong)

    distributed.together(write)
    values = {"mAP": means[best], **{f"mAP_{layer.stage}": value for layer, value in means.items()}}
    values |= {f"mAP_k{k}": low.best(k) for k in settings.low_shot_k}
    metrics = tuple(
        Metric(name=name, value=100.0 * value, unit="%", higher_is_better=True, n=len(data.val))
        for name, value in values.items()
    )
    notes = (f"best layer: {best.stage}", *notes_of(*train, *test), *_notes(problem, tested, draws, low))
    return Outcome(metrics=metrics, receipt=receipt, dataset=data.card, notes=notes)


def all_classes(problem: Problem, train: Rows, test: Rows, kept: Kept[Tested], *, label: str) -> list[Tested]:
    """What came of each class on one layer: N×D and M×D features of length 1; `kept` is of this layer."""
    tasks = []
    for c in problem.classes:
        arguments = {
            "train": train,
            "train_labels": problem.data.train.labels[:, c],
            "test": test,
            "test_labels": problem.data.val.labels[:, c],
            "settings": problem.settings,
            "seed": problem.fit_seed(c),
        }
        tasks.append((choose_and_test, arguments))
    return shared(tasks, values=train.size, label=label, kept=kept)


def _write(path: Path, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with files.whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def _class_lines(problem: Problem, tested: dict[Layer, list[Tested]]) -> list[tuple[object, ...]]:
    return [
        (
            layer.stage,
            problem.data.classes[c],
            f"{each.cost:g}",
            "" if each.validation is None else f"{100 * each.validation:.3f}",
            f"{100 * each.ap:.3f}",
        )
        for layer, found in tested.items()
        for c, each in zip(problem.classes, found, strict=True)
    ]


def _wrong_lines(problem: Problem, tested: list[Tested]) -> list[tuple[object, ...]]:
    data = problem.data
    return [
        (data.classes[c], label, data.val.paths[index].relative_to(data.root).as_posix(), f"{score:.6f}")
        for c, each in zip(problem.classes, tested, strict=True)
        for label, images in (("absent", each.absent), ("present", each.present))
        for index, score in images
    ]


def _low_lines(problem: Problem, low: LowShot) -> list[tuple[object, ...]]:
    return [
        (k, sample + 1, f"{cost:g}", f"{100 * aps[sample, column]:.3f}")
        for k, aps in low.aps.items()
        for sample in range(len(aps))
        for column, cost in enumerate(problem.settings.costs)
    ]


def _notes(problem: Problem, tested: dict[Layer, list[Tested]], draws: Draws, low: LowShot) -> list[str]:
    """What the reader of the numbers must know."""
    settings, notes = problem.settings, []
    if problem.left_out:
        notes.append(
            f"{len(problem.left_out)} classes without a positive or a negative image in a split are left out: "
            f"{', '.join(problem.left_out)}"
        )
    unchosen = sum(each.validation is None for each in next(iter(tested.values())))
    if unchosen:
        notes.append(
            f"{unchosen} classes have too few training images for {settings.folds} folds: their C is "
            f"{settings.costs[0]:g}"
        )
    fits = low.fits + sum(each.fits for found in tested.values() for each in found)
    stopped = low.stopped + sum(each.stopped for found in tested.values() for each in found)
    if stopped:
        notes.append(f"{stopped} of {fits} fits had not converged after {settings.max_iterations} iterations")
    short = sorted({k for (k, _, _), drawn in draws.items() if drawn.short})
    if short:
        shown = ", ".join(map(str, short))
        notes.append(f"low-shot k {shown}: a class with too few negative images trains on all that it has")
    return notes
