"""kNN as the scripts of the field do it, in torch: a full similarity matrix, and a one-hot vote.

The arithmetic of facebookresearch/dino@7c446df eval_knn.py (so InstDisc's, SimSiam's and the MoCo notebook's), and of
UMBCvision/MSF@130191c eval_knn.py for the majority, with the toolkit's declared order among equals.
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor
from torch.nn.functional import normalize, one_hot


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines Q×k in falling order and bank indices Q×k; equal cosines by the lower index."""
    bank, queries = (normalize(rows.double(), dim=1).float().double() for rows in (bank, queries))
    cosines, order = (queries @ bank.T).float().sort(dim=1, descending=True, stable=True)
    return cosines[:, :k], order[:, :k]


def weighted(cosines: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Ranked classes Q×C; equal votes by the lower class; a class without a vote is -1."""
    hot = one_hot(labels, classes).double()
    votes = (hot * (cosines.double() / temperature).exp()[:, :, None]).sum(dim=1)
    votes = votes.masked_fill(hot.sum(dim=1) == 0, -1)
    ranked = votes.sort(dim=1, descending=True, stable=True)
    return ranked.indices.masked_fill(ranked.values < 0, -1)


def majority(labels: Tensor) -> list[list[int]]:
    """Ranked classes of each query, those with a vote alone; equal votes by the nearer nearest neighbour."""
    # most_common keeps the order of first meeting among equals.
    return [[label for label, _ in Counter(row).most_common()] for row in labels.tolist()]


def majority_at_random(labels: Tensor, targets: list[int]) -> list[float]:
    """The chance of each query's target when one of the classes with most votes is drawn."""
    chances = []
    for row, target in zip(labels.tolist(), targets, strict=True):
        votes = Counter(row)
        best = [label for label, count in votes.items() if count == max(votes.values())]
        chances.append(best.count(target) / len(best))
    return chances
