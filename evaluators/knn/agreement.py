"""What an approximate search misses, measured against the exact one on a sample of the queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE = 1000
"""Queries that are searched exactly too."""


def sample(queries: int) -> NDArray[np.int64]:
    """Indices of at most `SAMPLE` queries, spread evenly."""
    return np.unique(np.linspace(0, queries - 1, min(queries, SAMPLE)).astype(np.int64))


def found(approximate: NDArray[np.int64], exact: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """The share (Q) of each query's k nearest neighbours that are among the k found.

    Args:
        approximate: Q×K bank indices, nearest first; -1 is none.
        exact: Q×K.
        k: one beyond K means K.
    """
    width = min(k, exact.shape[1])
    # A side holds an index once at most: a value that is twice in the joined row is on both.
    joined = np.sort(np.concatenate([approximate[:, :width], exact[:, :width]], axis=1), axis=1)
    twice = (joined[:, 1:] == joined[:, :-1]) & (joined[:, 1:] >= 0)
    shares: NDArray[np.float64] = twice.sum(axis=1) / width
    return shares
