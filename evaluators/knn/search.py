"""Exact cosine search with FAISS, with an order that is declared where FAISS promises none."""

from __future__ import annotations

import platform
import sys

import numpy as np
from numpy.typing import NDArray

from converters.errors import MissingPackage

try:
    import faiss
except ImportError:
    _WHEEL = "faiss-gpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "faiss-cpu"
    raise MissingPackage("faiss", f"pip install {_WHEEL}", "kNN search") from None

_OVERFETCH = 32
"""Neighbours fetched beyond k at first."""
_CANDIDATES = 1 << 22
"""Candidates held at a time, over all queries of a search: it bounds memory, and keeps FAISS's batches large."""
_BLOCK_BYTES = 64 << 20
"""Bound on a block of rows in float64."""


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their L2 norm, computed in float64; a zero row stays zero. N×D -> N×D."""
    units = np.empty(features.shape, dtype=np.float32)
    step = max(1, _BLOCK_BYTES // (8 * features.shape[1]))
    for start in range(0, len(features), step):
        rows = features[start : start + step].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units[start : start + step] = rows / np.where(norms > 0, norms, 1.0)
    return units


def build_index(bank: NDArray[np.float32]) -> faiss.Index:
    """An exact inner-product index over N×D unit vectors. FAISS obeys OMP_NUM_THREADS."""
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(np.ascontiguousarray(bank))
    return index


def nearest(
    bank: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the bank with the largest cosine to each query.

    A similarity is the dot product of the float32 unit vectors, computed in float64 and rounded to float32; rows of
    equal similarity rank by the lower bank index. FAISS's own float32 scores depend on where a row lies in a block, so
    they only choose candidates: more than k are fetched and scored anew, and the fetch widens until no row left out
    can belong to the k.

    Args:
        bank: N×D unit vectors (see `unit`).
        queries: Q×D unit vectors.
        k: at most N.

    Returns:
        Similarities Q×k in falling order, and bank indices Q×k.
    """
    assert 1 <= k <= len(bank), f"k {k} of {len(bank)} rows"
    # Whatever the order of its additions, FAISS's float32 dot product of two unit vectors is off by no more than
    # D·u / (1 - D·u) with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); the rest
    # covers our own rounding.
    slack = (bank.shape[1] + 2) * 2.0**-24 * 1.01
    index = build_index(bank)
    similarities = np.empty((len(queries), k), dtype=np.float32)
    neighbours = np.empty((len(queries), k), dtype=np.int64)
    pending = np.arange(len(queries))
    width = k + _OVERFETCH
    while len(pending):
        width = min(width, len(bank))
        unsettled = []
        step = max(1, _CANDIDATES // width)
        for start in range(0, len(pending), step):
            rows = pending[start : start + step]
            fetched, candidates = index.search(queries[rows], width)
            scores = _score(bank, queries[rows], candidates)
            order = np.lexsort((candidates, -scores), axis=1)[:, :k]
            similarities[rows] = np.take_along_axis(scores, order, axis=1)
            neighbours[rows] = np.take_along_axis(candidates, order, axis=1)
            if width < len(bank):
                # A row left out scored at most fetched[:, -1] with FAISS, hence at most `slack` more with us.
                outside = fetched[:, -1].astype(np.float64) + slack
                unsettled.append(rows[similarities[rows, -1] <= outside])
        pending = np.concatenate(unsettled) if unsettled else pending[:0]
        width *= 2
    return similarities, neighbours


def _score(
    bank: NDArray[np.float32], queries: NDArray[np.float32], candidates: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Dot products of each query (Q×D) with its candidates (Q×M indices) in float64, rounded to float32: Q×M."""
    scores = np.empty(candidates.shape, dtype=np.float32)
    pairs = max(1, _BLOCK_BYTES // (8 * bank.shape[1]))
    columns = min(candidates.shape[1], pairs)
    rows = max(1, pairs // columns)
    for i in range(0, len(queries), rows):
        block = queries[i : i + rows].astype(np.float64)
        for j in range(0, candidates.shape[1], columns):
            chosen = bank[candidates[i : i + rows, j : j + columns]].astype(np.float64)
            scores[i : i + rows, j : j + columns] = np.einsum("qd,qkd->qk", block, chosen)
    return scores
