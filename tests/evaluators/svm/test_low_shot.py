from __future__ import annotations

import numpy as np
import pytest

from converters.errors import UserError
from evaluators.svm.low_shot import draw

LABELS = np.array([1] * 5 + [-1] * 40 + [0] * 10)


def test_a_draw_holds_k_positive_and_19_k_negative_images_and_no_ignored_one() -> None:
    found = draw(LABELS, k=2, negatives=19, seed=0, class_name="cat")
    assert len(found.images) == len(set(found.images)) == 40
    assert np.array_equal(found.targets, LABELS[found.images])
    assert np.count_nonzero(found.targets == 1) == 2
    assert not found.short


def test_draws_differ_by_seed() -> None:
    draws = {tuple(draw(LABELS, k=2, negatives=2, seed=seed, class_name="cat").images) for seed in (0, 1, 2, 0)}
    assert len(draws) == 3


def test_too_few_negative_images_are_said_and_too_few_positive_ones_refused() -> None:
    found = draw(LABELS, k=3, negatives=19, seed=0, class_name="cat")
    assert found.short
    assert np.count_nonzero(found.targets == -1) == 40
    with pytest.raises(UserError, match=r"expected 6 training images with the class cat, found 5; .*low_shot_k"):
        draw(LABELS, k=6, negatives=1, seed=0, class_name="cat")
