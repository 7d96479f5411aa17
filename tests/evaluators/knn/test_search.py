from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from converters.errors import CheckFailed, UserError
from evaluators.features.compute import Features
from evaluators.knn import all_rows, keys
from evaluators.knn.engines.cpu import FaissCpu
from evaluators.knn.engines.engine import Engine
from evaluators.knn.engines.matmul import Matmul
from evaluators.knn.neighbours import find_neighbours
from evaluators.knn.rows import unit
from evaluators.knn.search import Budget, nearest
from evaluators.knn.vote import Ballot, rank_classes
from evaluators.settings.knn import KnnSettings
from tests.reference import knn_naive, knn_torch

CPU = torch.device("cpu")
ENGINES: dict[str, Engine] = {"faiss": FaissCpu(), "torch": Matmul(CPU)}
SETTINGS = KnnSettings(k=(20,), resize=8, crop=8, interpolation="bilinear")


def features(values: object, labels: object = ()) -> Features:
    return Features(np.asarray(values, dtype=np.float32), np.asarray(labels, dtype=np.int64))


def small_blocks(block: int, chunk: int = 2, candidates: int = 60) -> pytest.MonkeyPatch:
    """Blocks of so many rows, whatever the memory."""
    patch = pytest.MonkeyPatch()
    patch.setattr(Budget, "of", lambda *_, **__: Budget(block, chunk, candidates, workspace=256))
    return patch


@st.composite
def problems(draw: st.DrawFn) -> tuple[Features, NDArray[np.float32], int]:
    """A bank on a coarse grid, full of ties, duplicates and zero rows, and queries.

    For example 7 rows of {-2, ..., 2}^3 in 4 classes, of which some have no row; C may exceed N.
    """
    dim = draw(st.integers(1, 4))
    classes = draw(st.integers(1, 8))
    row = st.lists(st.integers(-2, 2), min_size=dim, max_size=dim)
    bank = draw(st.lists(row, min_size=1, max_size=12))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=len(bank), max_size=len(bank)))
    queries = draw(st.lists(row, min_size=1, max_size=4))
    return features(bank, labels), np.asarray(queries, dtype=np.float32), classes


def oracle(bank: Features, queries: NDArray[np.float32], k: int, temperature: float) -> list[list[int]]:
    """Ranked classes, at most five, filled up with -1."""
    ranked = [
        knn_naive.ranked_classes(bank.values.tolist(), bank.labels.tolist(), query, k, temperature)[:5]
        for query in queries.tolist()
    ]
    return [classes + [-1] * (5 - len(classes)) for classes in ranked]


def classify(
    bank: Features, queries: NDArray[np.float32], ks: tuple[int, ...], temperature: float = 0.07
) -> dict[int, list[list[int]]]:
    """Ranked classes for each k, from one search."""
    classes = int(bank.labels.max()) + 1
    wanted = SETTINGS.model_copy(update={"k": ks})
    near = find_neighbours(bank, queries, wanted, num_classes=classes, device=CPU)
    ranked = rank_classes(near.similarities, near.labels, [Ballot(k, "weighted", temperature) for k in ks])
    return {k: found.tolist() for k, found in zip(ks, ranked, strict=True)}


@settings(max_examples=150, deadline=None)
@given(problem=problems(), temperature=st.sampled_from([0.07, 0.2, 1.0]))
def test_equals_the_naive_loop_on_ties_and_duplicates(
    problem: tuple[Features, NDArray[np.float32], int], temperature: float
) -> None:
    bank, queries, _ = problem
    for k, found in classify(bank, queries, (1, 2, 5, 20), temperature).items():
        assert found == oracle(bank, queries, k, temperature)


@settings(max_examples=150, deadline=None)
@given(problem=problems(), block=st.integers(1, 13), engine=st.sampled_from(sorted(ENGINES)))
def test_blocks_change_nothing(problem: tuple[Features, NDArray[np.float32], int], block: int, engine: str) -> None:
    """Blocks smaller than k among them."""
    bank, queries, _ = problem
    k = min(5, len(bank.values))
    whole = nearest(bank.values, queries, k)
    patch = small_blocks(block)
    try:
        similarities, neighbours = nearest(bank.values, queries, k, engine=ENGINES[engine])
    finally:
        patch.undo()
    assert neighbours.tolist() == whole[1].tolist()
    assert similarities.tobytes() == whole[0].tobytes()


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_naive_loop_on_features_in_general_position(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Non-negative as behind a ReLU, hence with large cosines that lie close together.
    bank = features(np.abs(rng.normal(size=(150, 48))), rng.integers(0, 12, 150))
    queries = np.abs(rng.normal(size=(20, 48))).astype(np.float32)
    for k, found in classify(bank, queries, (1, 10, 20, 100, 200)).items():
        assert found == oracle(bank, queries, k, 0.07)


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("block", [64, 333, 5000])
def test_every_engine_and_block_equals_a_full_matrix(engine: str, block: int) -> None:
    rng = np.random.default_rng(0)
    bank = np.abs(rng.normal(size=(1500, 96))).astype(np.float32)
    bank[rng.integers(0, 1500, 200)] = bank[rng.integers(0, 1500, 200)]
    queries = np.concatenate([np.abs(rng.normal(size=(30, 96))).astype(np.float32), bank[:10]])
    cosines, order = knn_torch.nearest(torch.from_numpy(unit(bank)), torch.from_numpy(unit(queries)), 50)
    patch = small_blocks(block, chunk=17, candidates=700)
    try:
        similarities, neighbours = nearest(bank, queries, 50, engine=ENGINES[engine])
    finally:
        patch.undo()
    assert neighbours.tolist() == order.tolist()
    assert similarities.tolist() == pytest.approx(cosines.numpy(), abs=1e-7)


def test_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    bank = features(rng.normal(size=(300, 16)), rng.integers(0, 7, 300))
    queries = rng.normal(size=(60, 16)).astype(np.float32)
    for k, found in classify(bank, queries, (1, 10, 50)).items():
        judge = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
        )
        judge.fit(bank.values, bank.labels)
        assert [row[0] for row in found] == judge.predict(queries).tolist()


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_tie_at_the_boundary_goes_to_the_lower_index(engine: str) -> None:
    """Far more equal rows than are fetched at first: an engine alone returns any of them."""
    rng = np.random.default_rng(0)
    row = rng.normal(size=24)
    values = rng.normal(size=(700, 24)).astype(np.float32)
    same = np.sort(rng.choice(700, 300, replace=False))
    values[same] = row
    queries = np.asarray([row, row * 3], dtype=np.float32)
    similarities, neighbours = nearest(values, queries, 5, engine=ENGINES[engine])
    assert neighbours.tolist() == [same[:5].tolist()] * 2
    assert (similarities == similarities[:, :1]).all()


def collapsed(kind: str, rng: np.random.Generator, rows: int, dim: int) -> NDArray[np.float32]:
    """What a broken backbone gives."""
    row = np.abs(rng.normal(size=dim))
    if kind == "noise":
        values = row + 1e-5 * rng.normal(size=(rows, dim))
    elif kind == "signed":
        values = rng.normal(size=dim) + 1e-5 * rng.normal(size=(rows, dim))
    elif kind == "duplicates":
        values = np.abs(rng.normal(size=(3, dim)))[rng.integers(0, 3, rows)]
    elif kind == "dead":  # units that are almost always 0: most cosines are 0
        values = rng.random((rows, dim)) < 0.01
    else:
        values = np.broadcast_to(row if kind == "equal" else np.zeros(dim), (rows, dim))
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["equal", "noise", "signed", "duplicates", "dead", "zero"])
@pytest.mark.parametrize("block", [700, 5000])
def test_collapsed_features_are_ranked_by_the_declared_rule(kind: str, block: int) -> None:
    """More rows that float32 cannot tell apart than are ever fetched."""
    rng = np.random.default_rng(0)
    values = collapsed(kind, rng, 3006, 64)
    bank, queries = values[:3000], values[3000:]
    remarks: list[str] = []
    patch = small_blocks(block, chunk=4, candidates=20_000)
    try:
        similarities, neighbours = nearest(bank, queries, 20, remarks=remarks)
    finally:
        patch.undo()
    units = unit(bank).astype(np.float64)
    scores = np.array([np.vecdot(units, query) for query in unit(queries).astype(np.float64)]).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    assert neighbours.tolist() == order.tolist()
    assert similarities.tolist() == np.take_along_axis(scores, order, axis=1).tolist()
    assert len(remarks) == (block == 5000)  # a block may be fetched whole


@settings(max_examples=60, deadline=None)
@given(problem=problems(), first=st.integers(0, 11), side=st.integers(1, 5))
def test_all_rows_at_once_are_ranked_alike(
    problem: tuple[Features, NDArray[np.float32], int], first: int, side: int
) -> None:
    """The bank up to `first` is searched before, the rest is merged, so many rows at a time."""
    bank, queries, _ = problem
    k = min(5, len(bank.values))
    units, asked = unit(bank.values), unit(queries)
    best = np.full((len(queries), k), keys.NONE, dtype=np.uint64)
    wanted = np.arange(len(queries))
    for start, end in ((0, first), (first, len(units))):
        done = all_rows.merge(start, units[start:end], asked, wanted, best, candidates=2 * side**2, workspace=1 << 20)
        assert sum(done) == len(queries)
    similarities, neighbours = nearest(bank.values, queries, k)
    assert keys.unpack(best)[1].tolist() == neighbours.tolist()
    assert keys.unpack(best)[0].tobytes() == similarities.tobytes()


def test_near_ties_are_ordered_by_the_exact_cosine() -> None:
    """Rows that differ in the last bits, which FAISS's float32 sums cannot tell apart."""
    rng = np.random.default_rng(1)
    values = (rng.normal(size=64) + 1e-6 * rng.normal(size=(400, 64))).astype(np.float32)
    query = rng.normal(size=(1, 64)).astype(np.float32)
    similarities, neighbours = nearest(values, query, 20)
    expected = knn_naive.neighbours(values.tolist(), query[0].tolist(), 20)
    assert list(zip(similarities[0].tolist(), neighbours[0].tolist(), strict=True)) == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), copies=st.integers(0, 10), exponent=st.integers(-20, 20))
def test_the_order_of_the_bank_and_the_scale_of_features_do_not_matter(seed: int, copies: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    values, labels = rng.normal(size=(60, 8)), rng.integers(0, 5, 60)
    # Duplicates of one class: which of them is within the k must not matter.
    duplicates = rng.integers(0, 60, copies)
    bank = features(np.concatenate([values, values[duplicates]]), np.concatenate([labels, labels[duplicates]]))
    queries = rng.normal(size=(10, 8)).astype(np.float32)
    plain = classify(bank, queries, (1, 7, 30))
    shuffled = rng.permutation(len(bank.values))
    # A power of two leaves a float's digits as they are: the result must be the same to the bit.
    moved = features(bank.values[shuffled] * 2.0**exponent, bank.labels[shuffled])
    assert classify(moved, queries * np.float32(2.0**-exponent), (1, 7, 30)) == plain


def test_each_row_may_have_a_scale_of_its_own() -> None:
    rng = np.random.default_rng(3)
    bank, labels = rng.normal(size=(80, 8)), rng.integers(0, 4, 80)
    queries = rng.normal(size=(30, 8)).astype(np.float32)
    scaled = bank * rng.uniform(0.01, 100, (80, 1))
    one, other = (classify(features(values, labels), queries, (10,)) for values in (bank, scaled))
    assert one == other


def test_a_file_larger_than_the_memory_is_searched_within_it(tmp_path: Path) -> None:
    """A child's peak, mapped pages and all, against that of a small search; the file is three times the memory."""
    memory, dim = 128 << 20, 1024
    rows = 3 * memory // (4 * dim)
    queries = np.random.default_rng(0).normal(size=(6, dim)).astype(np.float32)
    bank = np.lib.format.open_memmap(tmp_path / "bank.npy", mode="w+", dtype=np.float32, shape=(rows, dim))
    planted = [number * 16_001 + 7 for number in range(6)]
    bank[planted] = queries + np.float32(0.01)
    del bank
    np.save(tmp_path / "queries.npy", queries)
    code = f"""
import json
import numpy as np
from evaluators.knn.search import nearest
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
bank = np.load({str(tmp_path / "bank.npy")!r}, mmap_mode="r")
queries = np.load({str(tmp_path / "queries.npy")!r})
nearest(bank[:1000], queries, 1)
before = peak()
similarities, neighbours = nearest(bank, queries, 1, memory={memory})
print(json.dumps([peak() - before, neighbours[:, 0].tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    grown, neighbours = json.loads(done.stdout)
    assert neighbours == planted
    assert memory / 4 < grown < 3 * memory / 4


def test_faults_are_one_line() -> None:
    bank, queries = np.ones((6, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    bank[4, 1] = np.nan
    with pytest.raises(CheckFailed, match="the feature of training image 4 holds NaN or infinity"):
        nearest(bank, queries, 2)
    with pytest.raises(CheckFailed, match="the feature of validation image 1 holds NaN or infinity"):
        nearest(queries, np.array([[1, 1, 1, 1], [0, np.inf, 0, 0]], np.float32), 2)
    with pytest.raises(CheckFailed, match="the bank's features have D = 4, the queries' D = 3"):
        nearest(queries, np.ones((2, 3), dtype=np.float32), 1)
    with pytest.raises(UserError, match="expected training images to compare with, found none"):
        find_neighbours(features(np.ones((0, 4))), queries, SETTINGS, num_classes=2, device=CPU)
    with pytest.raises(CheckFailed, match="training image 1 has the label 3, but the classes are 0 to 2"):
        find_neighbours(features(queries, [0, 3]), queries, SETTINGS, num_classes=3, device=CPU)
    with pytest.raises(CheckFailed, match="training image 0 has the label -1"):
        find_neighbours(features(queries, [-1, 0]), queries, SETTINGS, num_classes=3, device=CPU)
    with pytest.raises(UserError, match="expected one class an image, found several"):
        find_neighbours(features(queries, [[0, 1], [1, 0]]), queries, SETTINGS, num_classes=2, device=CPU)


def test_missing_faiss_names_the_command_that_installs_it() -> None:
    code = "import sys; sys.modules['faiss'] = None; import evaluators.knn.search"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MissingPackage: expected the package faiss for kNN search, found none installed" in done.stderr
    assert "install it with: pip install faiss-" in done.stderr
