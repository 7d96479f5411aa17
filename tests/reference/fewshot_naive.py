"""Nearest prototype in one episode, by loops over images and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def accuracy(support: Sequence[Sequence[Sequence[float]]], queries: Sequence[Sequence[Sequence[float]]]) -> float:
    """Per class a list of support points, and a list of query points."""
    prototypes = [[sum(axis) / len(points) for axis in zip(*points, strict=True)] for points in support]
    right = total = 0
    for label, points in enumerate(queries):
        for point in points:
            distances = [math.dist(point, prototype) for prototype in prototypes]
            right += distances.index(min(distances)) == label
            total += 1
    return right / total
