from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from evaluators.features.layers import Layer
from evaluators.settings.svm import SvmSettings
from evaluators.svm.average_precision import average_precision
from evaluators.svm.classifier import choose_and_test, fit, targets, try_every_cost, unit_rows
from tests.reference import svm_naive

SETTINGS = SvmSettings(
    resize=36,
    crop=32,
    geometry="squash",
    interpolation="bilinear",
    layers=(Layer(),),
    costs=(1.0, 0.5**2, 0.5**4, 0.5**7, 0.5**10),
)


@given(st.lists(st.tuples(st.sampled_from([1, -1]), st.integers(-3, 3)), min_size=1, max_size=30))
def test_average_precision_is_the_area_under_the_envelope(images: list[tuple[int, int]]) -> None:
    labels, scores = [label for label, _ in images], [float(score) for _, score in images]
    if 1 not in labels:
        labels[0] = 1
    expected = svm_naive.average_precision(labels, scores)
    assert average_precision(np.array(labels), np.array(scores)) == pytest.approx(expected, abs=1e-12)


@given(st.permutations(range(12)))
def test_it_is_never_below_the_one_without_envelope(ranking: list[int]) -> None:
    labels, scores = np.array([1] * 5 + [-1] * 7), -np.array(ranking, dtype=np.float64)
    plain = average_precision_score(labels > 0, scores)
    assert average_precision(labels, scores) >= plain - 1e-12


def test_the_two_agree_where_precision_only_falls() -> None:
    labels = np.array([1, 1, -1, 1, -1, -1, 1, -1])
    scores = -np.arange(8.0)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels > 0, scores), abs=1e-12)
    # And they differ where it rises again.
    assert average_precision(np.array([-1, 1, 1]), scores[:3]) == pytest.approx(2 / 3)
    assert average_precision_score([False, True, True], scores[:3]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.where(generator.random(n) < 0.3, 1, -1)
    return generator.normal(0, 1, (n, 12)) + 0.4 * labels[:, None], labels


def test_c_is_chosen_by_cross_validation() -> None:
    x, y = made(120, 0)
    train, test = unit_rows(x.astype(np.float32)), unit_rows(made(80, 1)[0].astype(np.float32))
    test_y = made(80, 1)[1]
    assert np.linalg.norm(train, axis=1) == pytest.approx(1.0, abs=1e-4)
    y[:7], test_y[:5] = 0, 0
    found = choose_and_test(train, y, test, test_y, settings=SETTINGS, seed=5)

    # By hand, as the reference does it: ignored images are negative in training, and not in the test.
    by_hand = np.where(y > 0, 1, -1)
    means = []
    for cost in SETTINGS.costs:
        svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=5)
        means.append(cross_val_score(svm, train, by_hand, cv=3, scoring="average_precision").mean())
    best = int(np.argmax(means))
    assert (found.cost, found.validation) == (SETTINGS.costs[best], pytest.approx(means[best]))
    svm = LinearSVC(C=found.cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=5)
    scores = svm.fit(train, by_hand).decision_function(test)[test_y != 0]
    assert found.ap == pytest.approx(svm_naive.average_precision(test_y[test_y != 0], scores))
    assert (found.fits, found.stopped) == (3 * 5 + 1, 0)


def test_ignored_images_can_be_left_out() -> None:
    labels = np.array([1, 0, -1])
    taken, y = targets(labels, SETTINGS)
    assert (taken.tolist(), y.tolist()) == ([True, True, True], [1, -1, -1])
    taken, y = targets(labels, SETTINGS.model_copy(update={"ignored_in_training": "left out"}))
    assert (taken.tolist(), y.tolist()) == ([True, False, True], [1, -1])


def test_with_fewer_images_than_folds_the_first_cost_is_taken() -> None:
    x, _ = made(20, 2)
    y = np.array([1, 1] + [-1] * 18)
    found = choose_and_test(unit_rows(x.astype(np.float32)), y, x, y, settings=SETTINGS, seed=0)
    assert (found.cost, found.validation, found.fits) == (1.0, None, 1)


def test_fits_that_do_not_converge_are_counted() -> None:
    x, y = made(60, 3)
    settings = SETTINGS.model_copy(update={"max_iterations": 1, "costs": (1.0, 1000.0)})
    _, stopped = try_every_cost(x, np.arange(60), y, x, y, settings=settings, seed=0)
    assert stopped == 2


def test_the_seed_decides_the_fit() -> None:
    x, y = made(60, 4)
    settings = SETTINGS.model_copy(update={"max_iterations": 2})
    first, again, other = (fit(x, y, cost=1.0, settings=settings, seed=seed)[0].coef_ for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
