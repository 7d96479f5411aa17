from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluators.knn.task import ballots_of
from evaluators.knn.vote import Ballot, chance, margin, rank_classes
from evaluators.predictions import accuracy
from evaluators.protocols import CATALOGUE
from evaluators.settings.knn import KnnSettings
from tests.reference import knn_torch


def ranked(similarities: object, labels: object, ballot: Ballot) -> list[list[int]]:
    (found,) = rank_classes(np.asarray(similarities, dtype=np.float32), np.asarray(labels), [ballot])
    rows: list[list[int]] = found.tolist()
    return rows


def padded(rows: list[list[int]]) -> list[list[int]]:
    return [(row + [-1] * 5)[:5] for row in rows]


def weighted(temperature: float) -> Ballot:
    return Ballot(20, "weighted", temperature)


def test_vote_by_hand() -> None:
    """T = 1: class 2 gets e^0.9 + e^0.1 = 3.56, class 0 e^0.8 = 2.23, class 1 e^0.5 = 1.65."""
    assert ranked([[0.9, 0.8, 0.5, 0.1]], [[2, 0, 1, 2]], weighted(1.0)) == [[2, 0, 1, -1, -1]]
    # At a low temperature the nearest decides, and nothing overflows; a vote that underflows is a vote.
    assert ranked([[0.9, 0.8, 0.5, 0.1]], [[0, 2, 2, 2]], weighted(1e-4)) == [[0, 2, -1, -1, -1]]


def test_equal_weighted_votes_go_to_the_lower_class() -> None:
    assert ranked([[0.5] * 4], [[3, 1, 3, 1]], weighted(0.07)) == [[1, 3, -1, -1, -1]]


def test_equal_majority_votes_go_to_the_nearer_class() -> None:
    ballot = Ballot(5, "majority")
    assert ranked([[0.9, 0.8, 0.7, 0.6, 0.5]], [[4, 3, 1, 3, 1]], ballot) == [[3, 1, 4, -1, -1]]
    assert ranked([[0.9, 0.8, 0.7, 0.6, 0.5]], [[4, 3, 1, 0, 2]], ballot) == [[4, 3, 1, 0, 2]]
    assert ranked([[0.9, 0.8, 0.7, 0.6, 0.5]], [[4, 3, 1, 1, 1]], Ballot(2, "majority")) == [[4, 3, -1, -1, -1]]


def test_the_margin_is_the_lead_over_the_target_in_shares_of_all_votes() -> None:
    similarities = np.array([[0.9, 0.8, 0.5, 0.1]] * 3, dtype=np.float32)
    labels = np.array([[2, 0, 1, 2]] * 3)
    votes = np.exp([0.9, 0.8, 0.5, 0.1])
    expected = [0.0, (votes[0] + votes[3] - votes[1]) / votes.sum(), (votes[0] + votes[3]) / votes.sum()]
    found = margin(similarities, labels, np.array([2, 0, 7]), weighted(1.0))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert margin(similarities, labels, np.array([2, 0, 7]), Ballot(4, "majority")).tolist() == [0.0, 0.25, 0.5]


def test_a_neighbour_that_was_not_found_has_no_vote() -> None:
    for ballot in (weighted(0.07), Ballot(4, "majority")):
        assert ranked([[0.9, -1, -1, -1], [-1] * 4], [[2, -1, -1, -1], [-1] * 4], ballot) == [[2] + [-1] * 4, [-1] * 5]


PROTOCOLS = sorted(id_ for id_, protocol in CATALOGUE.items() if isinstance(protocol.settings, KnnSettings))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.sampled_from([1, 3, 12, 300]))
def test_every_protocol_equals_the_scripts_of_the_field(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    # On a coarse grid, so that weights are often equal: 32 values of the cosine.
    similarities = -np.sort(-rng.integers(0, 32, (6, 210)) / np.float32(32), axis=1).astype(np.float32)
    labels = rng.integers(0, classes, similarities.shape)
    tensor = torch.from_numpy(labels)
    for id_ in PROTOCOLS:
        protocol = CATALOGUE[id_].settings
        assert isinstance(protocol, KnnSettings)
        ballots = ballots_of(protocol)
        assert [ballot.k for ballot in ballots] == list(protocol.k)
        for ballot, found in zip(ballots, rank_classes(similarities, labels, ballots), strict=True):
            voting = tensor[:, : ballot.k]
            if protocol.vote == "majority":
                assert found.tolist() == padded(knn_torch.majority(voting))
                targets = rng.integers(0, classes, 6)
                chances = chance(similarities, labels, targets, ballot)
                assert chances.tolist() == pytest.approx(knn_torch.majority_at_random(voting, targets.tolist()))
            else:
                cosines = torch.from_numpy(similarities[:, : ballot.k])
                truth = knn_torch.weighted(cosines, voting, classes, protocol.temperature)
                # Sums of exponentials of another order differ in their last bits: equal where the votes are not.
                assert _up_to_equal_votes(found, truth.numpy(), cosines.numpy(), labels, protocol.temperature)


def _up_to_equal_votes(
    found: NDArray[np.int64],
    truth: NDArray[np.int64],
    cosines: NDArray[np.float32],
    labels: NDArray[np.int64],
    temperature: float,
) -> bool:
    for query, (ours, theirs) in enumerate(zip(found, truth, strict=True)):
        votes: dict[int, float] = {-1: 0.0}
        for label, cosine in zip(labels[query], cosines[query].astype(np.float64), strict=False):
            votes[int(label)] = votes.get(int(label), 0.0) + float(np.exp(cosine / temperature))
        one, other = ([votes[int(label)] for label in row[: min(5, truth.shape[1])]] for row in (ours, theirs))
        if one != pytest.approx(other, rel=1e-12):
            return False
    return True


def test_the_random_draws_of_a_majority_have_the_mean_that_is_reported() -> None:
    """Class 0 and 1 have two votes each of five: a draw is right half the time, whoever is nearer."""
    similarities, labels = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]] * 3, np.float32), np.array([[0, 1, 1, 0, 2]] * 3)
    found = chance(similarities, labels, np.array([0, 1, 2]), Ballot(5, "majority"))
    assert found.tolist() == [0.5, 0.5, 0.0]
    assert chance(similarities, labels, np.array([0, 1, 2]), Ballot(1, "majority")).tolist() == [1.0, 0.0, 0.0]


def test_votes_of_many_queries() -> None:
    """More queries than are held at a time, and classes whose number needs more than 16 bits."""
    rng = np.random.default_rng(0)
    similarities = np.sort(rng.uniform(size=(9000, 6)).astype(np.float32))[:, ::-1]
    labels = rng.integers(0, 9, (9000, 6)) * 10_000
    ballots = [Ballot(6, "weighted", 0.1), Ballot(3, "majority")]
    together = rank_classes(similarities, labels, ballots)
    for start in range(0, 9000, 1500):
        part = slice(start, start + 1500)
        alone = rank_classes(similarities[part], labels[part], ballots)
        assert all((one[part] == other).all() for one, other in zip(together, alone, strict=True))


def test_accuracy_counts_labels_among_the_first() -> None:
    classes = np.array([[0, 1, 2, -1, -1], [1, 0, -1, -1, -1], [2, -1, -1, -1, -1], [0, 3, 1, 2, 4]])
    labels = np.array([0, 0, 1, 4])
    assert [accuracy(classes, labels, top) for top in (1, 2, 5)] == [25.0, 50.0, 75.0]
