from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from converters.backbone import Backbone
from converters.errors import UserError
from converters.families import random_backbone
from evaluators.datasets import image_folder, voc_labels
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.features.compute import Features
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, Outcome, evaluate
from evaluators.linear.manyshot import eleven_point, metric_fits, parts
from evaluators.protocols import CATALOGUE
from evaluators.settings.logistic import ManyshotSettings
from tests import image_folders
from tests.evaluators.scenes import scenes, write_voc

SMALL = ("resize=32", "crop=32", "workers=0", "penalties=3", "lowest_penalty=1", "highest_penalty=100")
PENALTIES = (1.0, 10.0, 100.0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def run(backbone: Backbone, root: Path, workdir: Path, protocol: str, *overrides: str) -> tuple[Job, Outcome]:
    workdir.mkdir()
    changed = CATALOGUE[protocol].overridden((*SMALL, "iterations=1000", *overrides))
    job = Job(backbone, root, changed, 0, torch.device("cpu"), workdir, workdir / "features")
    return job, evaluate(job)


def features(job: Job, data: LabelledImages) -> list[Features]:
    assert isinstance(job.protocol.settings, ManyshotSettings)
    frozen = freeze(job.backbone, job.device, [view_of(job, job.protocol.settings)])
    return [extract(job, frozen, split, job.protocol.settings)[0] for split in (data.train, data.val)]


def test_an_image_folder(backbone: Backbone, tmp_path: Path) -> None:
    root = image_folders.make(tmp_path / "colours")
    job, outcome = run(backbone, root, tmp_path / "a", "manyshot-mean@1")
    found = {metric.name: metric.value for metric in outcome.metrics}
    assert list(found) == ["top1", "top5", "mean_per_class"]
    assert outcome.receipt.after == backbone.fingerprint
    train, test = features(job, image_folder.read(root))
    x, y = np.asarray(train.values, dtype=np.float64), train.labels
    order = list(range(18))
    np.random.RandomState(0).shuffle(order)
    out, kept = order[:3], order[3:]

    def mean_per_class(model: LogisticRegression, rows: list[int]) -> float:
        predicted = model.predict(x[rows])
        return 100 * float(np.mean([np.mean(predicted[y[rows] == c] == c) for c in sorted(set(y[rows]))]))

    scores = [mean_per_class(LogisticRegression(C=1 / p, max_iter=5000).fit(x[kept], y[kept]), out) for p in PENALTIES]
    with (tmp_path / "a" / "regularisation.csv").open(newline="") as file:
        assert [float(row["held_out"]) for row in csv.DictReader(file)] == pytest.approx(scores, abs=1e-3)
    best = PENALTIES[int(np.argmax(scores))]
    predicted = LogisticRegression(C=1 / best, max_iter=5000).fit(x, y).predict(np.asarray(test.values, dtype=float))
    assert found["top1"] == pytest.approx(100 * (predicted == test.labels).mean())
    assert np.load(tmp_path / "a" / "predictions.npz")["predicted_last"].tolist() == predicted.tolist()


def test_a_class_that_is_held_out_whole_is_named(backbone: Backbone, tmp_path: Path) -> None:
    root = image_folders.make(tmp_path / "colours", train=1)
    message = "images of every class beside those held out, found no image of (blue|green|red).*as linear-moco@1"
    with pytest.raises(UserError, match=message):
        run(backbone, root, tmp_path / "a", "manyshot@1", "held_out=0.4")


def test_voc07(backbone: Backbone, tmp_path: Path) -> None:
    parts = {"train": scenes(10, 40, 1), "val": scenes(8, 40, 2), "test": scenes(12, 40, 3)}
    lists = write_voc(tmp_path, parts) / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    job, outcome = run(backbone, tmp_path, tmp_path / "a", "manyshot-voc07@1")
    (metric,) = outcome.metrics
    assert (metric.name, metric.n) == ("map11", 12)

    assert isinstance(job.protocol.settings, ManyshotSettings)
    data = voc_labels.read(job.protocol.settings, tmp_path)
    train, test = features(job, data)
    x, z = (np.asarray(each.values, dtype=np.float64) for each in (train, test))
    y, truth = train.labels == 1, test.labels == 1
    kept, out = np.arange(10), np.arange(10, 18)
    classes = [c for c in range(20) if all(0 < part[:, c].sum() < len(part) for part in (y[kept], y[out], truth))]
    assert len(classes) > 1

    def mean_ap(rows: np.ndarray, there: np.ndarray, tested: np.ndarray, penalty: float) -> float:
        # Two classes share a weight in opposite directions, so that its norm counts half.
        found = [
            eleven_point(
                there[:, c],
                LogisticRegression(C=2 / penalty, max_iter=5000).fit(x[rows], y[rows, c]).decision_function(tested),
            )
            for c in classes
        ]
        return 100 * float(np.mean(found))

    scores = [mean_ap(kept, y[out], x[out], penalty) for penalty in PENALTIES]
    with (tmp_path / "a" / "regularisation.csv").open(newline="") as file:
        assert [float(row["held_out"]) for row in csv.DictReader(file)] == pytest.approx(scores, abs=1e-3)
    assert metric.value == pytest.approx(mean_ap(np.arange(18), truth, z, PENALTIES[int(np.argmax(scores))]))
    with (tmp_path / "a" / "average_precision.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [data.classes[c] for c in classes]
    assert np.mean([float(row["ap11"]) for row in rows]) == pytest.approx(metric.value, abs=1e-3)
    (lists / "val.txt").write_text((lists / "test.txt").read_text())
    with pytest.raises(UserError, match="expected a part of 2007_trainval, and not all of it, found 0 of its 18"):
        run(backbone, tmp_path, tmp_path / "b", "manyshot-voc07@1")


def test_the_metric_is_that_of_the_data_set() -> None:
    metric_fits("image-folder", "top1")
    metric_fits("dtd", "top1")
    message = r"metric mean_per_class, as the reference has it for flowers-102.*use manyshot-mean@1"
    with pytest.raises(UserError, match=message):
        metric_fits("flowers-102", "top1")


def test_the_data_sets_own_validation_list_chooses() -> None:
    split = Split("train", "f", tuple(Path(str(index)) for index in range(6)), np.array([0, 1, 0, 1, 0, 1]))
    card = DatasetCard(name="x", layout="dtd", fingerprint="f", sample=False, images={})
    data = LabelledImages(Path("x"), ("a", "b"), split, split, card, validation=np.array([1, 4]))
    wanted = CATALOGUE["manyshot@1"].settings
    assert isinstance(wanted, ManyshotSettings)
    kept, out = parts(data, wanted)
    assert (kept.tolist(), out.tolist()) == ([0, 2, 3, 5], [1, 4])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=20))
def test_eleven_points(images: list[tuple[bool, int]]) -> None:
    """Threshold by threshold: what is found at each, and how much of it is right."""
    positive, scores = np.array([p for p, _ in images]), np.array([float(s) for _, s in images])
    if not positive.any():
        return
    curve = [(1.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        curve.append((positive[taken].mean(), positive[taken].sum() / positive.sum()))
    expected = np.mean([max(p for p, r in curve if r >= level) for level in np.linspace(0, 1, 11)])
    assert eleven_point(positive, scores) == pytest.approx(expected)
