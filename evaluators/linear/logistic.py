"""Multinomial logistic regression on features by L-BFGS, block by block over the rows, shared among processes.

The objective is scikit-learn's and the solver is the one behind scikit-learn's `lbfgs`: Σ cross-entropy + λ/2 ‖W‖² with
λ = 1/C and a free bias. What differs is where the rows are: blocks of a memory-mapped array, on a GPU where there is
one, and never an N×C array. Memory beside the features: a block of 64 MB of rows and 35 copies of the C×(D + 1)
parameters in float64 (10 pairs of vectors, as scipy's L-BFGS-B keeps them, and 8 shares of the gradient): 570 MB for
ImageNet and ResNet-50. The rows are cut into the same shares and blocks, and summed in the same order, whatever the
number of processes. Shapes: N rows, D features, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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
_SHARES, _LEAST = 8, 1024
"""Shares that the processes divide among them, and the rows that make one worth while; more processes do not help."""


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
        self.shares = min(max(self.n // _LEAST, 1), _SHARES)
        mine = np.array_split(np.arange(self.shares), size())[rank()].tolist()
        parts = np.array_split(indices, self.shares)
        row = self.dim * dtype.itemsize
        step = max(1, _BLOCK // row)
        self._blocks = [(k, parts[k][i : i + step]) for k in mine for i in range(0, len(parts[k]), step)]
        fits = sum(len(part) for _, part in self._blocks) * row <= _KEPT
        self._kept: list[tuple[int, Tensor, NDArray[np.int64]]] | None = list(self._read()) if fits else None
        self._spread: tuple[Tensor, float] | None = None

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The number of the share, features B×D and labels B."""
        for share, x, part in self._read() if self._kept is None else self._kept:
            yield share, x, torch.tensor(self._labels[part], device=self._device)

    def spread(self) -> tuple[Tensor, float]:
        """The mean of all rows, D in float64, and the root of their mean squared distance from it."""
        if self._spread is None:
            sums = torch.zeros(self.shares, self.dim, dtype=torch.float64, device=self._device)
            for share, x, _ in self:
                sums[share] += x.sum(dim=0, dtype=torch.float64)
            mean = total(sums).sum(dim=0) / self.n
            squares = torch.zeros(self.shares, dtype=torch.float64, device=self._device)
            for share, x, _ in self:
                squares[share] += (x.double() - mean).square().sum()
            # Equal rows have no size to divide by.
            self._spread = mean, math.sqrt(float(total(squares).sum()) / self.n) or 1.0
        return self._spread

    def relabelled(self, labels: NDArray[np.int64]) -> Rows:
        """The same rows with other classes: N class indices."""
        other = copy.copy(self)
        other._labels = labels
        return other

    def _read(self) -> Iterator[tuple[int, Tensor, NDArray[np.int64]]]:
        for share, part in self._blocks:
            yield share, torch.tensor(self._values[part], dtype=self._dtype, device=self._device), part


@dataclass(frozen=True)
class Logistic:
    """A solution, or where the solver stopped."""

    weight: Tensor
    """C×D, float64."""
    bias: Tensor
    """C, float64."""
    iterations: int = 0
    converged: bool = False
    """Whether the gradient at the solution is within the tolerance, whatever made the solver stop."""
    reason: str = ""
    """Why the solver stopped, in its own words."""

    def logits(self, features: Tensor) -> Tensor:
        """N×D -> N×C, in the precision of the features."""
        return torch.addmm(self.bias.to(features), features, self.weight.to(features).T)


def zeros(dim: int, num_classes: int, device: torch.device) -> Logistic:
    """The start of a path of solutions."""
    return Logistic(
        torch.zeros(num_classes, dim, dtype=torch.float64, device=device),
        torch.zeros(num_classes, dtype=torch.float64, device=device),
    )


def fit(
    rows: Rows,
    start: Logistic,
    *,
    penalty: float,
    iterations: int,
    tolerance: float,
    until: Literal["solved", "small-steps"] = "solved",
) -> Logistic:
    """Minimise F = Σ cross-entropy + penalty/2 ‖W‖² from `start` on.

    Args:
        rows: the training rows.
        start: from where; its shapes say C and D.
        penalty: λ, 1 / C of scikit-learn.
        iterations: at most.
        tolerance: of the gradient.
        until: `solved`: until ‖∇F‖ ≤ tolerance · λ‖W‖. F is λ-strongly convex in W: with the bias at its best, W is
            then within this share of its norm from the solution. The steps are taken in centred features of unit size,
            (x - mean) / size, with the weights multiplied by that size: other coordinates for the same objective.
            `small-steps`: as scikit-learn has it, until no component of ∇F is larger than the tolerance or a step
            lowers F by less than 2.2e-9 of it, whichever is first.

    Raises:
        CheckFailed: if the objective is not finite.
    """
    classes, dim = start.weight.shape
    device = start.weight.device
    mean, unit = torch.zeros(dim, dtype=torch.float64, device=device), 1.0
    if until == "solved":
        mean, unit = rows.spread()
    within = False

    def split(flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        found = torch.from_numpy(flat).to(device)
        weight = found[: classes * dim].view(classes, dim) / unit
        return weight, found[classes * dim :] - weight @ mean

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal within
        weight, bias = split(flat)
        sums = torch.zeros(rows.shares, classes * (dim + 1) + 1, dtype=torch.float64, device=device)
        for share, x, y in rows:
            log_p = torch.addmm(bias.to(x), x, weight.to(x).T).log_softmax(dim=1)
            sums[share, -1] -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64)
            error = log_p.exp_()
            error[torch.arange(len(y), device=device), y] -= 1.0
            sums[share, : classes * dim] += (error.T @ x).flatten()
            sums[share, classes * dim : -1] += error.sum(dim=0)
        # Every share is one process's and zero in the others, so that this sum rounds nothing; then they are added in
        # their order. Every solver takes the same step.
        gradient = total(sums).sum(dim=0)
        loss = float(gradient[-1] + 0.5 * penalty * weight.square().sum())
        gradient = gradient[:-1]
        gradient[: classes * dim] += penalty * weight.flatten()
        if until == "solved":
            within = float(gradient.norm()) <= tolerance * penalty * float(weight.norm())
            by_weight, by_bias = gradient[: classes * dim].view(classes, dim), gradient[classes * dim :]
            by_weight.sub_(by_bias[:, None] * mean).div_(unit)
        else:
            within = float(gradient.abs().max()) <= tolerance
        return loss, gradient.cpu().numpy()

    def stop(_: NDArray[np.float64]) -> None:
        if until == "solved" and within:
            raise StopIteration

    options = {"maxiter": iterations, "gtol": tolerance}
    if until == "solved":
        options |= {"gtol": 0.0, "ftol": 0.0, "maxfun": 10 * iterations}
    first = torch.cat([start.weight.flatten() * unit, start.bias + start.weight @ mean]).cpu().numpy()
    found = minimize(objective, first, method="L-BFGS-B", jac=True, callback=stop, options=options)
    loss, _ = objective(found.x)
    if not math.isfinite(loss):
        raise CheckFailed(f"logistic regression: the objective is {loss} at λ {penalty:g}")
    weight, bias = split(found.x)
    reason = "the gradient is within the tolerance" if within else found.message
    return Logistic(weight.clone(), bias.clone(), int(found.nit), within, reason)
