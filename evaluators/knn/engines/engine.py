"""What an engine promises. It only proposes candidates: their similarities are computed anew, the same for all."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class EngineFault(RuntimeError):
    """An engine does not work here, or computed something wrong; another may."""


class Index(Protocol):
    """A block of the bank, ready to be searched."""

    def search(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `width` rows of the block with the largest scores, in falling order.

        Args:
            queries: Q×D unit vectors.
            width: at most the rows of the block, and the engine's `widest`.

        Returns:
            Scores and row indices, Q×width; an index of -1 is none.
        """
        ...


class Engine(Protocol):
    """A way to search a block."""

    @property
    def name(self) -> str:
        """As the record shows it."""
        ...

    @property
    def exact(self) -> bool:
        """Whether each score is off by no more than `slack`, and no larger one is left out."""
        ...

    @property
    def widest(self) -> int | None:
        """The largest width of a search; None: any."""
        ...

    def index(self, block: NDArray[np.float32], workspace: int) -> Index:
        """Take in a block N×D of unit vectors; `workspace` bytes may be used for scores."""
        ...


def slack(dim: int) -> float:
    """How far a dot product of two unit vectors of D dimensions in float32 can be off, in whatever order it is added.

    D·u / (1 - D·u) with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); the rest
    covers our own rounding.
    """
    return (dim + 2) * 2.0**-24 * 1.01
