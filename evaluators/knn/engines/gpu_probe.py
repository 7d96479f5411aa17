"""Whether FAISS really searches on these GPUs: a search in a child process, compared with numpy's.

A build without code for a GPU's architecture imports well, sees the GPU, and then crashes, or worse.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
    try:
        done = subprocess.run(child, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return f"its trial search gave no answer in {patience:g} s"
    if done.returncode:
        return f"its trial search {_ending(done.returncode, done.stderr)}"
    try:
        answer = json.loads(done.stdout)
        scores = np.asarray(answer["scores"], dtype=np.float64)
        rows = np.asarray(answer["rows"], dtype=np.int64)
    except (ValueError, KeyError, TypeError):
        return "its trial search gave no answer that can be read"
    return None if _right(scores, rows) else "its trial search found wrong neighbours"


def _right(scores: NDArray[np.float64], rows: NDArray[np.int64]) -> bool:
    """Whether these are the nearest rows with their scores, up to float32's rounding."""
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


def _ending(code: int, stderr: str) -> str:
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return f"failed: {lines[-1].strip()[:200]}" if lines else f"ended with exit code {code}"
