"""Features as unit vectors, a block at a time: what is searched may be larger than memory."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from converters.errors import CheckFailed

_WORKSPACE = 4 << 20
"""Bytes of a piece in float64; a few pieces are held at a time."""


def unit(
    features: NDArray[np.float32], first: int = 0, last: int | None = None, *, name: str = "row"
) -> NDArray[np.float32]:
    """Rows `first` to `last` (exclusive) divided by their L2 norm, computed in float64; a zero row stays zero.

    N×D -> (last - first)×D.

    A row's result depends on no other row. Pages of a file that is memory-mapped for reading are given back.

    Args:
        features: N×D of any length, finite.
        first: where to begin.
        last: where to end; None is N.
        name: what a row is called in a message.

    Raises:
        CheckFailed: if a row holds NaN or infinity.
    """
    last = len(features) if last is None else last
    units = np.empty((last - first, features.shape[1]), dtype=np.float32)
    step = max(1, _WORKSPACE // (8 * max(1, features.shape[1])))
    for start in range(first, last, step):
        end = min(start + step, last)
        rows = features[start:end].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise CheckFailed(f"{name} {start + int(np.argmin(np.isfinite(norms[:, 0])))} holds NaN or infinity")
        units[start - first : end - first] = rows / np.where(norms > 0, norms, 1.0)
        _give_back(features)
    return units


def _give_back(features: NDArray[np.float32]) -> None:
    """Unmap the pages of a file mapped read-only; the kernel may keep them in its cache, and reads them again if not.

    Without it, a pass over a file larger than memory would count as memory of this process.
    """
    owner: object = features
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode == "r" and isinstance(owner.base, mmap.mmap):
            if hasattr(mmap, "MADV_DONTNEED"):
                owner.base.madvise(mmap.MADV_DONTNEED)
            return
        owner = owner.base
