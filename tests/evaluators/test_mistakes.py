from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.mistakes import CONFUSIONS, MOST_WRONG, PER_CLASS, write_mistakes

CLASSES = tuple(f"class {index}" for index in range(30))


@pytest.fixture
def data() -> LabelledImages:
    """30 classes, the last of which has no validation image."""
    rng = np.random.default_rng(0)
    root = Path("/data")

    def split(name: str, labels: list[int]) -> Split:
        paths = tuple(root / name / f"{index}.png" for index in range(len(labels)))
        return Split(name, "f" * 64, paths, np.array(labels))

    card = DatasetCard(name="d", layout="l", fingerprint="f" * 64, sample=False, images={})
    train, val = split("train", list(range(30)) * 2), split("val", rng.integers(0, 29, 600).tolist())
    return LabelledImages(root, CLASSES, train, val, card)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_files_agree_with_the_confusion_matrix(data: LabelledImages, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = data.val.labels
    predicted = np.where(rng.random(600) < 0.6, labels, rng.integers(0, 30, 600))
    margin = np.where(predicted == labels, 0.0, rng.random(600))
    write_mistakes(tmp_path, data, predicted, margin)
    matrix = confusion_matrix(labels, predicted, labels=range(30))

    rows = read(tmp_path / PER_CLASS)
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [int(row["right"]) for row in rows] == np.diag(matrix).tolist()
    assert [int(row["val_images"]) for row in rows] == matrix.sum(axis=1).tolist()
    assert {row["train_images"] for row in rows} == {"2"}
    assert rows[29]["accuracy"] == ""

    accuracy = np.diag(matrix)[:29] / matrix.sum(axis=1)[:29]
    confusions = read(tmp_path / CONFUSIONS)
    worst = [int(name.split()[1]) for name in dict.fromkeys(row["class"] for row in confusions)]
    assert worst == np.argsort(accuracy, kind="stable")[:20].tolist()
    for index in worst:
        mine = [row for row in confusions if row["class"] == CLASSES[index]]
        off = matrix[index].copy()
        off[index] = 0
        assert [int(row["images"]) for row in mine] == sorted(off[off > 0].tolist(), reverse=True)[:5]
        for row in mine:
            assert off[CLASSES.index(row["taken_for"])] == int(row["images"])
            assert float(row["share"]) == pytest.approx(100 * int(row["images"]) / matrix[index].sum(), abs=1e-4)

    images = read(tmp_path / MOST_WRONG)
    expected = sorted(np.flatnonzero(predicted != labels), key=lambda index: -margin[index])[:100]
    assert [row["image"] for row in images] == [f"val/{index}.png" for index in expected]
    assert [(row["class"], row["taken_for"]) for row in images] == [
        (CLASSES[labels[index]], CLASSES[predicted[index]]) for index in expected
    ]


def test_nothing_wrong_and_no_margin(data: LabelledImages, tmp_path: Path) -> None:
    write_mistakes(tmp_path, data, data.val.labels)
    assert read(tmp_path / CONFUSIONS) == []
    assert {row["accuracy"] for row in read(tmp_path / PER_CLASS)} == {"100.0000", ""}
    assert not (tmp_path / MOST_WRONG).exists()
