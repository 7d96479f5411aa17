"""Every row of a block compared with a query in float64: what ends the search where float32 cannot tell rows apart.

The features of a collapsed backbone are nearly equal: more rows than could ever be fetched lie within float32's error
of the k-th neighbour. float64's is so small that hardly a row has to be looked at twice, and of equal rows only the
first are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evaluators.knn import keys

NAME = "float64 products by numpy on the CPU where neighbours are nearly equal"
"""As the record shows it."""
_PAIR_BYTES = 1 << 20
"""Of the rows, in float64, that are scored again at a time."""


def merge(
    start: int,
    block: NDArray[np.float32],
    queries: NDArray[np.float32],
    wanted: NDArray[np.int64],
    best: NDArray[np.uint64],
    *,
    candidates: int,
    workspace: int,
) -> Iterator[int]:
    """Merge all rows of a block into the best keys Q×k of the wanted queries; yields numbers of queries done.

    Args:
        start: the bank index of the block's first row; the keys are of rows before it.
        block: N×D unit vectors.
        queries: Q×D unit vectors.
        wanted: indices of queries.
        best: Q×k sorted keys, changed in place.
        candidates: how many candidates may be held at a time; a score here takes the bytes of two.
        workspace: bytes for rows in float64.
    """
    side = max(1, min(math.isqrt(candidates // 2), workspace // (16 * block.shape[1])))
    for first in range(0, len(wanted), side):
        chosen = wanted[first : first + side]
        asked, mine = queries[chosen].astype(np.float64), best[chosen]
        for low in range(0, len(block), side):
            mine = _merged(start + low, block[low : low + side].astype(np.float64), asked, mine)
        best[chosen] = np.sort(mine, axis=1)
        yield len(chosen)


def _merged(
    start: int, rows: NDArray[np.float64], asked: NDArray[np.float64], best: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The best keys with these rows, the largest of them last and the others in no order."""
    scores = asked @ rows.T
    # How far a product and the declared sum of the same terms can be apart: each is off by D·u / (1 - D·u) times the
    # sum of the terms' sizes, u = 2^-53 (as `slack`). That sum is at most 1, 0 where a side is 0, and the score itself
    # where no term is negative.
    off = 2 * (rows.shape[1] + 2) * 2.0**-53 * 1.01
    positive = min(rows.min(), asked.min()) >= 0
    spread = off * (scores if positive else np.outer(asked.any(axis=1), rows.any(axis=1)))
    # A row after those that gave the k-th similarity must surpass it, or round to more than it.
    last = keys.last_similarity(best)
    above = (last + np.nextafter(last.astype(np.float32), np.float32(np.inf))) / 2
    query, row = np.nonzero(scores + spread >= above[:, None])
    if not len(query):
        return best
    near, spread = scores[query, row], spread[query, row]
    similarities = (near - spread).astype(np.float32)
    # Rounding keeps the order: where both ends give one float32, so does the declared sum between them.
    open_pairs = np.flatnonzero(similarities != (near + spread).astype(np.float32))
    step = max(1, _PAIR_BYTES // (8 * rows.shape[1]))
    for first in range(0, len(open_pairs), step):
        pairs = open_pairs[first : first + step]
        similarities[pairs] = np.vecdot(rows[row[pairs]], asked[query[pairs]])
    counts = np.bincount(query, minlength=len(asked))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.full((len(asked), counts.max()), keys.NONE, dtype=np.uint64)
    found[query, place] = keys.pack(similarities, row + start)
    k = best.shape[1]
    return np.partition(np.concatenate([best, found], axis=1), k - 1, axis=1)[:, :k]
