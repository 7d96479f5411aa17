"""A candidate as one number: similarity and bank index, in the declared order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NONE = np.uint64(2**64 - 1)
"""The key of no candidate; it sorts last."""
_LOW = np.uint64(2**32 - 1)
_TOP_BIT = np.uint32(1 << 31)


def pack(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The smaller a key, the larger the similarity, and where that is equal, the lower the index (below 2^32)."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 becomes 0
    # Floats as unsigned integers that rise with them.
    rising = np.where(bits & _TOP_BIT, ~bits, bits | _TOP_BIT)
    return (~rising).astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)


def unpack(keys: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Similarities and indices; -1 and -1 for none."""
    none = keys == NONE
    similarities = np.where(none, np.float32(-1), _similarities(keys)).astype(np.float32)
    return similarities, np.where(none, -1, (keys & _LOW).astype(np.int64))


def last_similarity(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Q×k, the largest last -> Q: the k-th similarity, -inf where there are fewer."""
    last = keys[:, -1]
    return np.where(last == NONE, -np.inf, _similarities(last).astype(np.float64))


def _similarities(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    rising = ~(keys >> np.uint64(32)).astype(np.uint32)
    return np.where(rising & _TOP_BIT, rising ^ _TOP_BIT, ~rising).astype(np.uint32).view(np.float32)
