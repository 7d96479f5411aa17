"""The choice of λ for logistic regression, over the values of linusericsson/ssl-transfer@416913f linear.py."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converters.distributed import rank, total
from converters.files import whole
from converters.progress import Progress
from evaluators.linear.logistic import Logistic, Rows
from evaluators.settings.logistic import LogisticSettings

TABLE = "regularisation.csv"
"""One line a value of λ."""

Attempt = tuple[float, float, int, bool, str]
"""λ, score on the held-out images in percent, iterations, whether the fit converged, why it ended."""


def penalties(settings: LogisticSettings) -> list[float]:
    """The values of λ, rising."""
    ends = np.log10(settings.lowest_penalty), np.log10(settings.highest_penalty)
    values: list[float] = np.logspace(*ends, settings.penalties).tolist()
    return values


def search(
    settings: LogisticSettings,
    attempt: Callable[[float], tuple[float, int, bool, str]],
    done: list[Attempt],
    save: Callable[[list[Attempt]], None],
    *,
    converged_first: bool,
) -> float:
    """Try every λ, rising; the first of those with the best score.

    Args:
        settings: which values.
        attempt: fits with λ, from the solution before; what `Attempt` has behind λ.
        done: attempts of an earlier process; the others are appended.
        save: called with all attempts after each.
        converged_first: whether a fit that did not converge is chosen only if none did.

    Returns:
        The best λ.
    """
    values = penalties(settings)
    stream = sys.stderr if rank() == 0 else io.StringIO()
    with Progress("L-BFGS", len(values) - len(done), unit="fits", stream=stream) as progress:
        for penalty in values[len(done) :]:
            done.append((penalty, *attempt(penalty)))
            save(done)
            progress.step(1, penalty=penalty, held_out=done[-1][1])
    return max(done, key=lambda tried: (converged_first and tried[3], tried[1]))[0]


def write_attempts(path: Path, attempts: Sequence[Attempt]) -> None:
    """The table of what was tried."""
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("penalty", "C", "held_out", "iterations", "converged", "end"))
        for penalty, score, *rest in attempts:
            table.writerow((f"{penalty:.6g}", f"{1 / penalty:.6g}", f"{score:.3f}", *rest))


def edge_note(settings: LogisticSettings, chosen: float) -> tuple[str, ...]:
    """A note where the best λ is the first or last of several."""
    values = penalties(settings)
    if len(values) > 2 and chosen in (values[0], values[-1]):
        return (f"the chosen λ {chosen:g} is at the edge of its range: the best may lie beyond",)
    return ()


@torch.no_grad()
def hits(rows: Rows, solution: Logistic) -> Tensor:
    """How many of the rows of each class are classified rightly, and how many there are, over all processes: 2×C."""
    classes = len(solution.bias)
    found = torch.zeros(2, classes, dtype=torch.float64, device=solution.bias.device)
    for _, x, y in rows:
        right = solution.logits(x).argmax(dim=1) == y
        found[0] += torch.bincount(y[right], minlength=classes)
        found[1] += torch.bincount(y, minlength=classes)
    return total(found)


def top1(found: Tensor) -> float:
    """Percent of the images that are classified rightly, from `hits`."""
    return 100.0 * float(found[0].sum() / found[1].sum())
