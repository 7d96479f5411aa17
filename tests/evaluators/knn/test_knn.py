from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from evaluators.features.compute import Features
from evaluators.job import Job, evaluate
from evaluators.knn.search import nearest, unit
from evaluators.knn.task import classify, vote
from evaluators.predictions import accuracy
from evaluators.protocol import Protocol
from evaluators.protocols import CATALOGUE
from tests import image_folders
from tests.reference import knn_naive


def features(values: object, labels: object = ()) -> Features:
    return Features(np.asarray(values, dtype=np.float32), np.asarray(labels, dtype=np.int64))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Features, NDArray[np.float32], int]:
    """A bank on a coarse grid, full of ties, duplicates and zero rows, and queries.

    For example 7 rows of {-2, ..., 2}^3 in 4 classes, of which some have no row.
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


def shaped(ranked: NDArray[np.int64]) -> list[list[int]]:
    rows: list[list[int]] = ranked.tolist()
    return rows


@settings(max_examples=200, deadline=None)
@given(problem=problems(), temperature=st.sampled_from([0.07, 0.2, 1.0]))
def test_equals_the_naive_loop_on_ties_and_duplicates(
    problem: tuple[Features, NDArray[np.float32], int], temperature: float
) -> None:
    bank, queries, classes = problem
    ranked = classify(bank, queries, ks=(1, 2, 5, 20), num_classes=classes, temperature=temperature)
    for k, found in ranked.items():
        assert shaped(found) == oracle(bank, queries, k, temperature)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_naive_loop_on_features_in_general_position(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Non-negative as behind a ReLU, hence with large cosines that lie close together.
    bank = features(np.abs(rng.normal(size=(150, 48))), rng.integers(0, 12, 150))
    queries = np.abs(rng.normal(size=(20, 48))).astype(np.float32)
    ranked = classify(bank, queries, ks=(1, 10, 20, 100, 200), num_classes=12, temperature=0.07)
    for k, found in ranked.items():
        assert shaped(found) == oracle(bank, queries, k, 0.07)


def test_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    bank = features(rng.normal(size=(300, 16)), rng.integers(0, 7, 300))
    queries = rng.normal(size=(60, 16)).astype(np.float32)
    ranked = classify(bank, queries, ks=(1, 10, 50), num_classes=7, temperature=0.07)
    for k, found in ranked.items():
        judge = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
        )
        judge.fit(bank.values, bank.labels)
        assert found[:, 0].tolist() == judge.predict(queries).tolist()


def test_a_tie_at_the_boundary_goes_to_the_lower_index() -> None:
    """Far more equal rows than are fetched at first: FAISS alone returns any of them."""
    rng = np.random.default_rng(0)
    row = rng.normal(size=24)
    values = rng.normal(size=(700, 24))
    same = np.sort(rng.choice(700, 300, replace=False))
    values[same] = row
    bank = unit(features(values).values)
    similarities, neighbours = nearest(bank, unit(features([row, row * 3]).values), 5)
    assert neighbours.tolist() == [same[:5].tolist()] * 2
    assert (similarities == similarities[:, :1]).all()


def test_near_ties_are_ordered_by_the_exact_cosine() -> None:
    """Rows that differ in the last bits, which FAISS's float32 sums cannot tell apart."""
    rng = np.random.default_rng(1)
    values = (rng.normal(size=64) + 1e-6 * rng.normal(size=(400, 64))).astype(np.float32)
    query = rng.normal(size=(1, 64)).astype(np.float32)
    similarities, neighbours = nearest(unit(values), unit(query), 20)
    expected = knn_naive.neighbours(values.tolist(), query[0].tolist(), 20)
    assert list(zip(similarities[0].tolist(), neighbours[0].tolist(), strict=True)) == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), copies=st.integers(0, 10), exponent=st.integers(-20, 20))
def test_the_order_of_the_bank_and_the_scale_of_features_do_not_matter(seed: int, copies: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    values, labels = rng.normal(size=(60, 8)), rng.integers(0, 5, 60)
    duplicates = rng.integers(0, 60, copies)
    bank = features(np.concatenate([values, values[duplicates]]), np.concatenate([labels, labels[duplicates]]))
    queries = rng.normal(size=(10, 8)).astype(np.float32)
    plain = classify(bank, queries, ks=(1, 7, 30), num_classes=5, temperature=0.07)
    shuffled = rng.permutation(len(bank.values))
    # A power of two leaves a float's digits as they are: the result must be the same to the bit.
    moved = features(bank.values[shuffled] * 2.0**exponent, bank.labels[shuffled])
    again = classify(moved, queries * np.float32(2.0**-exponent), ks=(1, 7, 30), num_classes=5, temperature=0.07)
    for k, ranked in plain.items():
        assert shaped(ranked) == shaped(again[k])


def test_each_row_may_have_a_scale_of_its_own() -> None:
    rng = np.random.default_rng(3)
    bank, labels = rng.normal(size=(80, 8)), rng.integers(0, 4, 80)
    queries = rng.normal(size=(30, 8)).astype(np.float32)
    scaled = bank * rng.uniform(0.01, 100, (80, 1))
    one, other = (
        classify(features(values, labels), queries, ks=(10,), num_classes=4, temperature=0.07)[10]
        for values in (bank, scaled)
    )
    assert shaped(one) == shaped(other)


def test_vote_by_hand() -> None:
    """T = 1: class 2 gets e^0.9 + e^0.1 = 3.56, class 0 e^0.8 = 2.23, class 1 e^0.5 = 1.65."""
    similarities = np.array([[0.9, 0.8, 0.5, 0.1]], dtype=np.float32)
    labels = np.array([[2, 0, 1, 2]])
    assert shaped(vote(similarities, labels, num_classes=7, temperature=1.0)) == [[2, 0, 1, -1, -1]]
    # At a low temperature the nearest decides, and nothing overflows.
    labels = np.array([[0, 2, 2, 2]])
    assert shaped(vote(similarities, labels, num_classes=7, temperature=1e-4))[0][:2] == [0, 2]


def test_equal_votes_go_to_the_lower_class() -> None:
    similarities = np.full((1, 4), 0.5, dtype=np.float32)
    assert shaped(vote(similarities, np.array([[3, 1, 3, 1]]), num_classes=4, temperature=0.07)) == [[1, 3, -1, -1, -1]]


def test_votes_of_many_queries() -> None:
    """More queries than are held at a time."""
    rng = np.random.default_rng(0)
    similarities = np.sort(rng.uniform(size=(2500, 6)).astype(np.float32))[:, ::-1]
    labels = rng.integers(0, 9, (2500, 6))
    together = vote(similarities, labels, num_classes=9, temperature=0.1)
    for start in range(0, 2500, 500):
        part = slice(start, start + 500)
        alone = vote(similarities[part], labels[part], num_classes=9, temperature=0.1)
        assert (together[part] == alone).all()


def test_accuracy_counts_labels_among_the_first() -> None:
    ranked = np.array([[0, 1, 2, -1, -1], [1, 0, -1, -1, -1], [2, -1, -1, -1, -1], [0, 3, 1, 2, 4]])
    labels = np.array([0, 0, 1, 4])
    assert [accuracy(ranked, labels, top) for top in (1, 2, 5)] == [25.0, 50.0, 75.0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folders.make(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


PROTOCOL = CATALOGUE["quickstart-knn@1"].overridden(("resize=36", "crop=32", "k=[3, 20]", "batch_size=7"))


def job(backbone: Backbone, root: Path, workdir: Path, protocol: Protocol = PROTOCOL) -> Job:
    return Job(
        backbone, root, protocol, seed=0, device=torch.device("cpu"), workdir=workdir, features=workdir / "features"
    )


def test_evaluate_equals_a_plain_pipeline(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    outcome = evaluate(job(backbone, root, tmp_path))
    plain = T.Compose(
        [
            T.Resize(36, T.InterpolationMode.BICUBIC),
            T.CenterCrop(32),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def split(name: str) -> Features:
        paths = sorted((root / name).rglob("*.png"))
        with torch.no_grad():
            rows = backbone.module()(torch.stack([plain(Image.open(path)) for path in paths]))
        return features(rows.numpy(), [sorted(image_folders.COLOURS).index(path.parent.name) for path in paths])

    train, val = split("train"), split("val")
    found = {metric.name: metric for metric in outcome.metrics}
    assert list(found) == ["top1_k3", "top5_k3", "top1_k20", "top5_k20"]
    for k in (3, 20):
        ranked = np.array(oracle(train, val.values, k, 0.07))
        assert found[f"top1_k{k}"].value == accuracy(ranked, val.labels, 1)
        assert found[f"top5_k{k}"].value == accuracy(ranked, val.labels, 5)
    assert {metric.n for metric in outcome.metrics} == {9}
    assert outcome.dataset.images == {"train": 18, "val": 9}
    assert outcome.notes == ("k 20 capped at the 18 training images",)
    written = np.load(tmp_path / "predictions.npz")
    assert written["labels"].tolist() == val.labels.tolist()
    assert written["predicted_k3"].tolist() == [row[0] for row in oracle(train, val.values, 3, 0.07)]
    assert written["paths"].tolist() == [p.relative_to(root).as_posix() for p in sorted((root / "val").rglob("*.png"))]
    assert written["classes"].tolist() == ["blue", "green", "red"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "predictions.npz"]


def test_receipt_covers_the_evaluation(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    receipt = evaluate(job(backbone, root, tmp_path)).receipt
    assert receipt.backbone == receipt.live == receipt.after == backbone.fingerprint
    assert receipt.framework == "torchvision"
    assert receipt.preprocess.mean == pytest.approx(IMAGENET_MEAN, rel=1e-5)


def test_the_same_job_twice(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    assert evaluate(job(backbone, root, tmp_path)) == evaluate(job(backbone, root, tmp_path))


def test_a_tampered_model_fails_before_the_first_image(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folders.make(tmp_path / "damaged", train=1, val=1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image: reading it would be another error")
    model = backbone.module()
    with torch.no_grad():
        model.get_parameter("layer3.1.conv2.weight")[0, 0, 0, 0] += 1e-6
    monkeypatch.setattr(Backbone, "module", lambda _: model)
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        evaluate(job(backbone, root, tmp_path))


def test_the_headline_must_be_measured(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    protocol = CATALOGUE["quickstart-knn@1"].overridden(("k=[1, 5]",))
    with pytest.raises(UserError, match=r"settings\.k: .*headline top1_k20, found \[1, 5\]; keep 20 in it"):
        evaluate(job(backbone, root, tmp_path, protocol))


def test_a_foreign_input_convention_gives_the_same_numbers(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    """The same network written for BGR images of 0 to 255 without a std, as Caffe2 models are."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    tensors = dict(backbone.tensors)
    tensors["conv1.weight"] = (tensors["conv1.weight"] / (255 * std).view(1, 3, 1, 1)).flip(1).contiguous()
    b, g, r = (255 * mean).flip(0).tolist()
    foreign = replace(
        backbone,
        tensors=tensors,
        preprocess=backbone.preprocess.model_copy(
            update={
                "channel_order": "BGR",
                "mean": (b, g, r),
                "std": (1.0, 1.0, 1.0),
                "value_range": (0.0, 255.0),
            }
        ),
    )
    ours, theirs = (evaluate(job(each, root, tmp_path)) for each in (backbone, foreign))
    assert theirs.metrics == ours.metrics
    assert theirs.receipt.preprocess.channel_order == "BGR"


def test_missing_faiss_names_the_command_that_installs_it() -> None:
    code = "import sys; sys.modules['faiss'] = None; import evaluators.knn.search"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MissingPackage: expected the package faiss for kNN search, found none installed" in done.stderr
    assert "install it with: pip install faiss-" in done.stderr
