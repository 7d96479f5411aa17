from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from converters.errors import CheckFailed
from evaluators.linear import logistic
from evaluators.linear.logistic import Logistic, Rows, fit, zeros

CPU = torch.device("cpu")
N, D = 120, 12


def problem(classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    draw = np.random.default_rng(classes)
    labels = draw.integers(0, classes, N)
    centres = draw.normal(size=(classes, D))
    return np.maximum(centres[labels] + draw.normal(size=(N, D)), 0).astype(np.float32), labels


def solve(
    values: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    penalty: float,
    dtype: torch.dtype = torch.float64,
    start: Logistic | None = None,
) -> Logistic:
    rows = Rows(values, labels, np.arange(len(labels)), device=CPU, dtype=dtype)
    start = zeros(values.shape[1], classes, CPU) if start is None else start
    return fit(rows, start, penalty=penalty, iterations=2000, tolerance=1e-6)


@pytest.mark.parametrize("penalty", [0.05, 1.0, 30.0])
def test_the_solution_is_that_of_scikit_learn(penalty: float) -> None:
    values, labels = problem(4)
    found = solve(values, labels, 4, penalty)
    expected = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(values.astype(np.float64), labels)
    assert found.converged
    size = np.abs(expected.coef_).max()
    np.testing.assert_allclose(found.weight.numpy(), expected.coef_, atol=2e-3 * size)
    x = torch.from_numpy(values).double()
    probabilities = found.logits(x).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(values.astype(np.float64)), atol=1e-3)


def test_the_gradient_is_zero_at_the_solution() -> None:
    values, labels = problem(3)
    found = solve(values, labels, 3, 0.7)
    weight, bias = found.weight.requires_grad_(), found.bias.requires_grad_()
    logits = torch.from_numpy(values).double() @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")
    (loss + 0.35 * weight.square().sum()).backward()
    assert float(weight.grad.abs().max()) < 0.02
    assert float(bias.grad.abs().max()) < 0.02


def test_neither_blocks_nor_single_precision_change_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = problem(4)
    whole = solve(values, labels, 4, 1.0)
    single = solve(values, labels, 4, 1.0, torch.float32)
    torch.testing.assert_close(single.weight, whole.weight, atol=2e-3, rtol=0)
    monkeypatch.setattr(logistic, "_BLOCK", 8 * D * 7)
    monkeypatch.setattr(logistic, "_KEPT", 0)
    blocks = solve(values, labels, 4, 1.0)
    torch.testing.assert_close(blocks.weight, whole.weight, atol=1e-6, rtol=0)


def test_a_path_ends_where_no_rounding_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separable classes and hardly a penalty: where 100 iterations stop is a matter of rounding."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 80)
    values = np.maximum(draw.normal(size=(10, 64))[labels] + 3 * draw.normal(size=(80, 64)), 0).astype(np.float32)
    new = torch.from_numpy(np.maximum(draw.normal(size=(2000, 64)), 0))
    found, ends = {}, {}
    for name, block, kept, least in (("whole", 1 << 26, 1 << 32, 1024), ("blocks", 8 * 64 * 7, 0, 9)):
        monkeypatch.setattr(logistic, "_BLOCK", block)
        monkeypatch.setattr(logistic, "_KEPT", kept)
        monkeypatch.setattr(logistic, "_LEAST", least)
        rows = Rows(values, labels, np.arange(80), device=CPU, dtype=torch.float64)
        assert rows.shares == (1 if name == "whole" else 8)
        start = zeros(64, 10, CPU)
        for penalty in (1e-2, 1e-4, 1e-6):
            start = fit(rows, start, penalty=penalty, iterations=5000, tolerance=1e-3)
            assert start.converged
            assert start.reason == "the gradient is within the tolerance"
        found[name] = start
        ends[name] = start.logits(new).argmax(dim=1)
    size = found["whole"].weight.norm()
    assert (found["whole"].weight - found["blocks"].weight).norm() < 2e-3 * size
    assert (ends["whole"] == ends["blocks"]).double().mean() > 0.999


def test_a_stop_is_no_convergence() -> None:
    values, labels = problem(4)
    rows = Rows(values, labels, np.arange(N), device=CPU, dtype=torch.float64)
    for until in ("solved", "small-steps"):
        cut = fit(rows, zeros(D, 4, CPU), penalty=1e-3, iterations=3, tolerance=1e-6, until=until)
        assert (cut.iterations, cut.converged) == (3, False)
        assert "ITERATIONS" in cut.reason
    small = fit(rows, zeros(D, 4, CPU), penalty=1e-3, iterations=5000, tolerance=1e-12, until="small-steps")
    assert not small.converged
    assert "REDUCTION" in small.reason


def test_a_solution_is_where_the_next_one_starts() -> None:
    values, labels = problem(4)
    first = solve(values, labels, 4, 1.0)
    again = solve(values, labels, 4, 1.0, start=first)
    assert again.iterations <= 2 < first.iterations


def test_an_objective_that_is_not_finite_fails() -> None:
    values, labels = problem(3)
    values[5, 3] = np.nan
    with pytest.raises(CheckFailed, match="the objective is nan at λ 1"):
        solve(values, labels, 3, 1.0)
