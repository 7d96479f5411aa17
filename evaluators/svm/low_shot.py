"""Few images a class: which ones, and what is learnt from them.

The reference is open-mmlab/OpenSelfSup@1db69ec tools/prepare_data/create_voc_low_shot_challenge_samples.py and
benchmarks/svm_tools/test_svm_low_shot.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.errors import UserError
from evaluators.svm.classifier import EveryCost, Rows, try_every_cost
from evaluators.svm.kept import Kept
from evaluators.svm.problem import Problem
from evaluators.svm.workers import shared


@dataclass(frozen=True)
class Draw:
    """The training images of one class in one sample."""

    images: NDArray[np.int64]
    """Indices, in rising order."""
    targets: NDArray[np.int64]
    """1 or -1 each."""
    short: bool
    """Whether there were fewer negative images than asked for: then all of them are in."""


def draw(labels: NDArray[np.int64], *, k: int, negatives: int, seed: int, class_name: str) -> Draw:
    """Draw k positive images and `negatives` times k negative ones, without replacement; ignored ones never.

    Args:
        labels: N of one class: 1 present, -1 absent, 0 ignored.
        k: positive images.
        negatives: negative images a positive one.
        seed: of this draw alone.
        class_name: for the message.

    Raises:
        UserError: if there are fewer than k positive images.
    """
    present, absent = np.flatnonzero(labels > 0), np.flatnonzero(labels < 0)
    if len(present) < k:
        raise UserError(
            expected=f"{k} training images with the class {class_name}",
            found=str(len(present)),
            where="settings.low_shot_k",
            cure="take smaller numbers: --set low_shot_k=[1], or none: --set low_shot_k=[]",
        )
    generator = np.random.default_rng(seed)
    wanted = negatives * k
    chosen = np.concatenate(
        [
            generator.choice(present, k, replace=False),
            generator.choice(absent, min(wanted, len(absent)), replace=False),
        ]
    )
    images = np.sort(chosen)
    return Draw(images, np.where(labels[images] > 0, 1, -1), len(absent) < wanted)


Draws = dict[tuple[int, int, int], Draw]
"""By k, sample and class."""


def draw_all(problem: Problem) -> Draws:
    """The training images of all low-shot classifiers; every draw has a generator of its own.

    Raises:
        UserError: if a class has fewer than k positive images.
    """
    settings, data = problem.settings, problem.data
    return {
        (k, sample, c): draw(
            data.train.labels[:, c],
            k=k,
            negatives=settings.low_shot_negatives,
            seed=problem.draw_seed(k, sample, c),
            class_name=data.classes[c],
        )
        for k in settings.low_shot_k
        for sample in range(settings.low_shot_samples)
        for c in problem.classes
    }


@dataclass(frozen=True)
class LowShot:
    """What came of few images, on one layer."""

    aps: dict[int, NDArray[np.float64]]
    """By k: mean average precision over classes, 0 to 1, samples×costs."""
    fits: int
    stopped: int
    """Fits that had not converged."""

    def best(self, k: int) -> float:
        """The mean over samples at the cost that is best on the test images, as the reference reports it."""
        return float(self.aps[k].mean(axis=0).max())


def few_images(problem: Problem, draws: Draws, train: Rows, test: Rows, kept: Kept[EveryCost]) -> LowShot:
    """The low-shot classifiers on one layer: N×D and M×D features of length 1; `kept` is of this layer."""
    if not draws:
        return LowShot({}, 0, 0)
    settings = problem.settings
    tasks = []
    for (k, sample, c), drawn in draws.items():
        arguments = {
            "train": train,
            "drawn": drawn.images,
            "y": drawn.targets,
            "test": test,
            "test_labels": problem.data.val.labels[:, c],
            "settings": settings,
            "seed": problem.fit_seed(c, k, sample),
        }
        tasks.append((try_every_cost, arguments))
    found = dict(zip(draws, shared(tasks, values=test.size, label="svm low-shot", kept=kept), strict=True))
    aps = {
        k: np.array(
            [
                np.mean([found[key].aps for key in draws if key[:2] == (k, sample)], axis=0)
                for sample in range(settings.low_shot_samples)
            ]
        )
        for k in settings.low_shot_k
    }
    return LowShot(aps, len(draws) * len(settings.costs), sum(each.stopped for each in found.values()))
