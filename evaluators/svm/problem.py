"""What there is to learn: images with labels, the classes that can be judged, the settings, the seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from converters.errors import UserError
from evaluators.datasets.labelled import LabelledImages
from evaluators.images import stream
from evaluators.settings.svm import SvmSettings

_FIT, _DRAW = range(2)
"""The streams of random numbers of a seed."""


@dataclass(frozen=True)
class Problem:
    """One evaluation, without its features."""

    data: LabelledImages
    settings: SvmSettings
    seed: int

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Those with a positive and a negative image in both splits: the others cannot be learnt or judged.

        Raises:
            UserError: if there is none.
        """

        def whole(labels: NDArray[np.int64]) -> bool:
            return bool((labels > 0).any() and (labels < 0).any())

        train, test = self.data.train.labels, self.data.val.labels
        found = tuple(c for c in range(len(self.data.classes)) if whole(train[:, c]) and whole(test[:, c]))
        if not found:
            raise UserError(
                expected="a class with positive and negative images in both splits",
                found=f"none of {len(self.data.classes)}",
                where=self.data.root,
            )
        return found

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the other classes."""
        return tuple(name for c, name in enumerate(self.data.classes) if c not in self.classes)

    def fit_seed(self, *words: int) -> int:
        """For liblinear, which takes 31 bits."""
        return stream(self.seed, _FIT, *words) % 2**31

    def draw_seed(self, *words: int) -> int:
        """Of one low-shot draw."""
        return stream(self.seed, _DRAW, *words)
