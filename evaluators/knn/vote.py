"""From neighbours to ranked classes: the votes of many k and T, counted on one search.

Shapes: Q queries, K neighbours of each, k ≤ K of them vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TOP = 5
_CHUNK = 4096
"""Queries whose votes are held at a time."""


@dataclass(frozen=True)
class Ballot:
    """Who votes, and what a vote counts."""

    k: int
    """The nearest k neighbours vote; all, where there are fewer."""
    rule: Literal["weighted", "majority"] = "weighted"
    """A vote counts exp(cos / T), or one."""
    temperature: float = 1.0
    """T; a majority vote has none."""


def rank_classes(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], ballots: Sequence[Ballot]
) -> list[NDArray[np.int64]]:
    """For each ballot the five classes with the most votes, best first.

    Among equal votes comes first, where votes are weighted, the lower class index; in a majority vote, where ties are
    common, the class whose nearest neighbour is nearer. Where fewer than five classes got a vote, the rest is -1.

    Args:
        similarities: Q×K cosines in falling order.
        labels: Q×K classes of these neighbours; -1 is nobody, and has no vote.
        ballots: any number.

    Returns:
        One Q×5 a ballot.
    """
    ranked = [np.full((len(labels), TOP), -1, dtype=np.int64) for _ in ballots]
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        grouped = _Grouped(similarities[part], labels[part])
        for ballot, classes in zip(ballots, ranked, strict=True):
            classes[part] = grouped.ranked(ballot)
    return ranked


def chance(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], targets: NDArray[np.int64], ballot: Ballot
) -> NDArray[np.float64]:
    """The probability (Q) that a class drawn among those with the most votes is the target (Q).

    It is what a script that breaks ties at random gives on average.
    """
    chances = np.zeros(len(labels))
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        grouped = _Grouped(similarities[part], labels[part])
        votes, _ = grouped.votes(ballot)
        most = votes == votes.max(axis=1, keepdims=True)
        right = most & (grouped.classes == targets[part, None])
        chances[part] = right.any(axis=1) / most.sum(axis=1)
    return chances


def margin(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], targets: NDArray[np.int64], ballot: Ballot
) -> NDArray[np.float64]:
    """By which share of all votes (Q, 0 to 1) the class with the most was ahead of the target (Q)."""
    margins = np.zeros(len(labels))
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        grouped = _Grouped(similarities[part], labels[part])
        votes = np.maximum(grouped.votes(ballot)[0], 0.0)
        own = (votes * (grouped.classes == targets[part, None])).sum(axis=1)
        cast = votes.sum(axis=1)
        margins[part] = np.divide(votes.max(axis=1) - own, cast, out=np.zeros(len(votes)), where=cast > 0)
    return margins


class _Grouped:
    """Neighbours sorted by class once, for all ballots; G is the largest number of classes around a query."""

    def __init__(self, similarities: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        rows, self.largest_k = labels.shape
        # Numpy sorts integers of 16 bits by radix, several times faster.
        narrow = labels.astype(np.int16) if labels.max(initial=0) < 2**15 else labels
        # Stable: inside a class the nearer neighbour stays first, so sums do not depend on how classes are numbered.
        self._order = np.argsort(narrow, axis=1, kind="stable")
        ordered = np.take_along_axis(labels, self._order, axis=1)
        group = np.zeros(labels.shape, dtype=np.int64)
        np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=group[:, 1:])
        self._shape = rows, int(group.max(initial=0)) + 1
        self._slots = (group + np.arange(rows)[:, None] * self._shape[1]).ravel()
        self.classes = np.full(self._shape, -1, dtype=np.int64)
        self.classes.ravel()[self._slots] = ordered.ravel()
        self._nobody = ordered < 0
        # Divided by the largest weight: the ranking stays, and a small T cannot overflow.
        cosines = similarities.astype(np.float64)
        self._behind = np.take_along_axis(cosines - cosines[:, :1], self._order, axis=1)

    def votes(self, ballot: Ballot) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Votes of each group, -1 for a group that got none (rows×G); and who votes (rows×K, sorted by class)."""
        voting = (self._order < ballot.k) & ~self._nobody
        cast = np.exp(self._behind / ballot.temperature) * voting if ballot.rule == "weighted" else voting
        votes = self._sum(cast)
        votes[self._sum(voting) == 0] = -1.0
        return votes, voting

    def ranked(self, ballot: Ballot) -> NDArray[np.int64]:
        """rows×5."""
        votes, voting = self.votes(ballot)
        got_a_vote = votes >= 0
        if ballot.rule == "majority":
            nearest = np.full(self._shape, self.largest_k, dtype=np.int64)
            np.minimum.at(nearest.ravel(), self._slots[voting.ravel()], self._order[voting])
            # Whole numbers, far below 2^53: a vote more outweighs any place.
            votes = np.where(got_a_vote, votes * (self.largest_k + 1) - nearest, -np.inf)
        best = np.empty((len(votes), TOP), dtype=np.int64)
        every = np.arange(len(votes))
        for place in range(TOP):
            first = votes.argmax(axis=1)  # of equal votes the first, hence the lower class
            best[:, place] = np.where(got_a_vote[every, first], self.classes[every, first], -1)
            votes[every, first] = -np.inf
            got_a_vote[every, first] = False
        return best

    def _sum(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        rows, groups = self._shape
        return np.bincount(self._slots, values.ravel(), minlength=rows * groups).reshape(self._shape).astype(np.float64)
