"""Whether FAISS really searches on these GPUs: a search in a child process, compared with numpy's.

A build without code for a GPU's architecture imports well, sees the GPU, and then crashes, or worse.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from converters.child import answer
from evaluators.knn.engines.engine import slack

WIDTH = 40
PATIENCE = 120.0
"""Seconds; the first use of a GPU can take many, because kernels are compiled for it."""
_SHAPE = (2000, 100, 256)
"""N, Q and D."""


def problem() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors N×D and Q×D, the same in every process."""
    bank_rows, query_rows, dim = _SHAPE
    values = np.random.default_rng(0).normal(size=(bank_rows + query_rows, dim))
    units = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return units[:bank_rows], units[bank_rows:]


@lru_cache(maxsize=8)
def fault(gpus: tuple[int, ...]) -> str | None:
    """Why FAISS cannot be used on these GPUs (none: all), or None; asked once a process."""
    child = [sys.executable, "-m", "evaluators.knn.engines.gpu", *(str(number) for number in gpus)]
    return fault_of(child, PATIENCE)


def fault_of(child: Sequence[str], patience: float) -> str | None:
    """What is wrong with the answer of a child process, or None.

    Args:
        child: a command that prints `{"scores": Q×WIDTH, "rows": Q×WIDTH}` for `problem()`.
        patience: seconds.
    """
    said, became = answer(child, patience)
    if became is not None:
        return f"its trial search {became}"
    try:
        scores = np.asarray(said["scores"], dtype=np.float64)
        rows = np.asarray(said["rows"], dtype=np.int64)
    except (ValueError, KeyError, TypeError):
        return "its trial search gave no answer that can be read"
    return None if right(scores, rows) else "its trial search found wrong neighbours"


def right(scores: NDArray[np.float64], rows: NDArray[np.int64]) -> bool:
    """Whether these are the nearest rows of `problem()` with their scores, up to float32's rounding."""
    bank, queries = problem()
    truth = queries.astype(np.float64) @ bank.astype(np.float64).T
    if scores.shape != (len(queries), WIDTH) or rows.shape != scores.shape:
        return False
    if rows.min() < 0 or rows.max() >= len(bank) or any(len(set(row)) < WIDTH for row in rows.tolist()):
        return False
    bound = slack(bank.shape[1])
    best = -np.sort(-truth, axis=1)[:, :WIDTH]
    found = np.take_along_axis(truth, rows, axis=1)
    # `not (… <= …)` is no simplification's victim: NaN compares as false and must count as wrong.
    return bool((np.abs(found - best) <= 2 * bound).all() and (np.abs(scores - found) <= bound).all())
