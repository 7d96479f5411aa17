"""Multinomial logistic regression on features by L-BFGS, block by block over the rows, shared among processes.

The objective is scikit-learn's and the solver is the one behind scikit-learn's `lbfgs`: Σ cross-entropy + λ/2 ‖W‖² with
λ = 1/C and a free bias. What differs is where the rows are: blocks of a memory-mapped array, on a GPU where there is
one, and never an N×C array. Memory beside the features: a block of 64 MB of rows and 27 copies of the C×(D + 1)
parameters in float64 (10 pairs of vectors, as scipy's L-BFGS-B keeps them): 440 MB for ImageNet and ResNet-50.
Shapes: N rows, D features, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from converters.distributed import rank, size, total
from converters.errors import CheckFailed

_BLOCK = 1 << 26
"""Bytes of the rows that are held at a time."""
_KEPT = 1 << 32
"""Bytes of rows that are kept in memory, in the precision of the solver, where all of them fit."""


class Rows:
    """Some rows of a feature array, with their classes: this process's part of them, block by block.

    Args:
        values: N×D; may be memory-mapped.
        labels: N class indices.
        indices: which rows, sorted.
        device: where a block goes.
        dtype: in which the solver multiplies.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.n, self.dim = len(indices), values.shape[1]
        self._values, self._labels, self._device, self._dtype = values, labels, device, dtype
        self._mine = np.array_split(indices, size())[rank()]
        row = self.dim * dtype.itemsize
        self._step = max(1, _BLOCK // row)
        fits = len(self._mine) * row <= _KEPT
        self._kept: list[tuple[Tensor, NDArray[np.int64]]] | None = list(self._read()) if fits else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features B×D and labels B."""
        for x, part in self._read() if self._kept is None else self._kept:
            yield x, torch.tensor(self._labels[part], device=self._device)

    def relabelled(self, labels: NDArray[np.int64]) -> Rows:
        """The same rows with other classes: N class indices."""
        other = copy.copy(self)
        other._labels = labels
        return other

    def _read(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        for start in range(0, len(self._mine), self._step):
            part = self._mine[start : start + self._step]
            yield torch.tensor(self._values[part], dtype=self._dtype, device=self._device), part


@dataclass(frozen=True)
class Logistic:
    """A solution, or where the solver stopped."""

    weight: Tensor
    """C×D, float64."""
    bias: Tensor
    """C, float64."""
    iterations: int = 0
    converged: bool = False
    """Whether the solver met its tolerance before its limit of iterations."""

    def logits(self, features: Tensor) -> Tensor:
        """N×D -> N×C, in the precision of the features."""
        return torch.addmm(self.bias.to(features), features, self.weight.to(features).T)


def zeros(dim: int, num_classes: int, device: torch.device) -> Logistic:
    """The start of a path of solutions."""
    return Logistic(
        torch.zeros(num_classes, dim, dtype=torch.float64, device=device),
        torch.zeros(num_classes, dtype=torch.float64, device=device),
    )


def fit(rows: Rows, start: Logistic, *, penalty: float, iterations: int, tolerance: float) -> Logistic:
    """Minimise Σ cross-entropy + penalty/2 ‖W‖² from `start` on.

    Args:
        rows: the training rows.
        start: from where; its shapes say C and D.
        penalty: λ, 1 / C of scikit-learn.
        iterations: at most.
        tolerance: the solver stops where no component of the gradient of this sum is larger.

    Raises:
        CheckFailed: if the objective is not finite.
    """
    classes, dim = start.weight.shape
    device = start.weight.device

    def split(flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        found = torch.from_numpy(flat).to(device)
        return found[: classes * dim].view(classes, dim), found[classes * dim :]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = split(flat)
        gradient = torch.zeros(classes * (dim + 1) + 1, dtype=torch.float64, device=device)
        for x, y in rows:
            log_p = torch.addmm(bias.to(x), x, weight.to(x).T).log_softmax(dim=1)
            gradient[-1] -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64)
            error = log_p.exp_()
            error[torch.arange(len(y), device=device), y] -= 1.0
            gradient[: classes * dim] += (error.T @ x).flatten()
            gradient[classes * dim : -1] += error.sum(dim=0)
        # One sum over the processes, the loss at its end: every solver takes the same step.
        total(gradient)
        gradient[: classes * dim] += penalty * weight.flatten()
        loss = float(gradient[-1] + 0.5 * penalty * weight.square().sum())
        return loss, gradient[:-1].cpu().numpy()

    first = torch.cat([start.weight.flatten(), start.bias]).cpu().numpy()
    found = minimize(objective, first, method="L-BFGS-B", jac=True, options={"maxiter": iterations, "gtol": tolerance})
    if not np.isfinite(found.fun):
        raise CheckFailed(f"logistic regression: the objective is {found.fun} at λ {penalty:g}")
    weight, bias = split(found.x)
    return Logistic(weight.clone(), bias.clone(), int(found.nit), bool(found.success))
