"""Weighted kNN as DINO describes it (arXiv:2104.14294, appendix F.1; eval_knn.py), by loops over Python numbers."""

from __future__ import annotations

import math

import numpy as np


def _unit(row: list[float]) -> list[float]:
    norm = math.sqrt(math.fsum(x * x for x in row))
    return [float(np.float32(x / norm)) if norm else 0.0 for x in row]


def neighbours(bank: list[list[float]], query: list[float], k: int) -> list[tuple[float, int]]:
    """(similarity, bank index) of the k nearest: falling similarity, then rising index."""
    q = _unit(query)
    scored = []
    for index, row in enumerate(bank):
        products = [x * y for x, y in zip(_unit(row), q, strict=True)]
        scored.append((float(np.float32(math.fsum(products))), index))
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    return scored[:k]


def ranked_classes(
    bank: list[list[float]], labels: list[int], query: list[float], k: int, temperature: float
) -> list[int]:
    """The classes that got a vote: falling votes, then rising class index."""
    votes: dict[int, float] = {}
    for similarity, index in neighbours(bank, query, k):
        votes[labels[index]] = votes.get(labels[index], 0.0) + math.exp(similarity / temperature)
    return sorted(votes, key=lambda label: (-votes[label], label))
