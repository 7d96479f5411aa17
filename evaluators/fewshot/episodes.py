"""Episodes and their accuracy. Shapes: W classes an episode, k support images and q queries a class, D features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw(
    members: Sequence[NDArray[np.int64]], *, way: int, shots: int, queries: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One episode: W classes, and of each k support images and q others as queries, all without replacement.

    Args:
        members: the images of each class that can be drawn, at least k + q each; at least W classes.
        way: W.
        shots: k.
        queries: q.
        seed: of this episode alone.

    Returns:
        W×k and W×q indices of images; row by row the same class.
    """
    generator = np.random.default_rng(seed)
    classes = generator.permutation(len(members))[:way]
    images = np.stack([generator.permutation(members[c])[: shots + queries] for c in classes])
    return images[:, :shots], images[:, shots:]


def accuracy(features: NDArray[np.float32], support: NDArray[np.int64], queries: NDArray[np.int64]) -> float:
    """Share of queries whose nearest prototype is that of their class, 0 to 1; among equals the first class counts.

    Args:
        features: N×D.
        support: W×k indices into them.
        queries: W×q.
    """
    prototypes = features[support].astype(np.float64).mean(axis=1)
    points = features[queries].astype(np.float64)
    # W×q×W; the differences themselves, as their expansion into products cancels for close points.
    distances = np.stack([((points - prototype) ** 2).sum(axis=2) for prototype in prototypes], axis=2)
    return float((distances.argmin(axis=2) == np.arange(len(support))[:, None]).mean())
