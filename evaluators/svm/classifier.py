"""One linear SVM a class: the choice of C, the fit, the test. Loads no torch: worker processes import this alone.

The reference is open-mmlab/OpenSelfSup@1db69ec benchmarks/svm_tools/train_svm_kfold.py and test_svm.py. Shapes: N
training images, M test images, D features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from evaluators.settings.svm import SvmSettings
from evaluators.svm.average_precision import average_precision

Rows = NDArray[np.float64]
"""N×D features of length 1."""
Labels = NDArray[np.int64]
"""N labels of one class: 1 present, -1 absent, 0 ignored."""


WORST_IMAGES = 10
"""How many absent and how many present images of a class are remembered."""


@dataclass(frozen=True)
class Tested:
    """What came of one class and one layer."""

    cost: float
    """The C that was chosen."""
    validation: float | None
    """Its mean average precision over the folds, 0 to 1; None where there were too few images to cross-validate."""
    ap: float
    """On the test images, 0 to 1."""
    fits: int
    stopped: int
    """How many fits ended at the most iterations, before they had converged."""
    absent: list[tuple[int, float]]
    """Index and score of the test images without the class that have the highest scores, the highest first."""
    present: list[tuple[int, float]]
    """The same for those with the class that have the lowest, the lowest first."""


class EveryCost(NamedTuple):
    """What came of few images of one class, on one layer."""

    aps: list[float]
    """Test average precision at each cost, 0 to 1."""
    stopped: int
    """Fits that had not converged."""


def unit_rows(values: NDArray[np.float32]) -> Rows:
    """Rows of length (almost) 1, in float64; the 1e-5 in the denominator is the source's."""
    rows = values.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5
    return rows


def targets(labels: Labels, settings: SvmSettings) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which training images take part, and for those that do 1 or -1."""
    taken = np.ones(len(labels), dtype=np.bool_) if settings.ignored_in_training == "negative" else labels != 0
    return taken, np.where(labels[taken] > 0, 1, -1)


def choose_and_test(
    train: Rows, train_labels: Labels, test: Rows, test_labels: Labels, *, settings: SvmSettings, seed: int
) -> Tested:
    """Choose C by cross-validation, fit on all training images, test.

    Both label arrays must hold a positive and a negative image. With fewer than `folds` of either in training nothing
    can be cross-validated: then C is the first of the declared costs.

    Args:
        train: N×D.
        train_labels: N.
        test: M×D.
        test_labels: M; ignored images are left out.
        settings: the costs, and all that liblinear asks for.
        seed: of liblinear's coordinate order, below 2**32.
    """
    taken, y = targets(train_labels, settings)
    x = train if taken.all() else train[taken]
    fits = stopped = 0
    validation: float | None = None
    cost = settings.costs[0]
    if min(np.count_nonzero(y > 0), np.count_nonzero(y < 0)) >= settings.folds:
        folds = list(StratifiedKFold(settings.folds).split(x, y))
        means = []
        for candidate in settings.costs:
            scores = []
            for fitting, held_out in folds:
                machine, converged = fit(x[fitting], y[fitting], cost=candidate, settings=settings, seed=seed)
                scores.append(average_precision_score(y[held_out], machine.decision_function(x[held_out])))
                fits, stopped = fits + 1, stopped + (not converged)
            means.append(float(np.mean(scores)))
        best = int(np.argmax(means))
        cost, validation = settings.costs[best], means[best]
    machine, converged = fit(x, y, cost=cost, settings=settings, seed=seed)
    scores = machine.decision_function(test)
    ap = _average_precision(test_labels, scores)
    return Tested(cost, validation, ap, fits + 1, stopped + (not converged), *worst(test_labels, scores))


def try_every_cost(
    train: Rows,
    drawn: NDArray[np.int64],
    y: NDArray[np.int64],
    test: Rows,
    test_labels: Labels,
    *,
    settings: SvmSettings,
    seed: int,
) -> EveryCost:
    """For each cost the test average precision of the SVM on few images.

    Args:
        train: N×D.
        drawn: which of them are the few images.
        y: 1 or -1 for each of the few.
        test: M×D.
        test_labels: M; ignored images are left out.
        settings: the costs, and all that liblinear asks for.
        seed: of liblinear's coordinate order, below 2**32.
    """
    x = train[drawn]
    aps, stopped = [], 0
    for cost in settings.costs:
        machine, converged = fit(x, y, cost=cost, settings=settings, seed=seed)
        aps.append(_average_precision(test_labels, machine.decision_function(test)))
        stopped += not converged
    return EveryCost(aps, stopped)


def worst(labels: Labels, scores: NDArray[np.float64]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The absent images with the highest scores and the present ones with the lowest: index and score, worst first.

    Args:
        labels: M; ignored images are left out.
        scores: M.
    """
    order = np.argsort(scores, kind="stable")
    absent, present = order[labels[order] < 0][::-1], order[labels[order] > 0]
    highest, lowest = ([(int(i), float(scores[i])) for i in each[:WORST_IMAGES]] for each in (absent, present))
    return highest, lowest


def _average_precision(labels: Labels, scores: NDArray[np.float64]) -> float:
    """On the images that are not ignored, 0 to 1."""
    judged = labels != 0
    return average_precision(labels[judged], scores[judged])


def fit(x: Rows, y: NDArray[np.int64], *, cost: float, settings: SvmSettings, seed: int) -> tuple[LinearSVC, bool]:
    """The SVM at one cost, and whether it converged."""
    machine = LinearSVC(
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        C=cost,
        class_weight={1: settings.positive_weight, -1: 1.0},
        intercept_scaling=settings.intercept_scaling,
        tol=settings.tolerance,
        max_iter=settings.max_iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Counted instead: hundreds of the same line would hide the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(x, y)
    return machine, bool(machine.n_iter_ < settings.max_iterations)
