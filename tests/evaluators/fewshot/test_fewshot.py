from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.backbone import Backbone
from converters.errors import UserError
from converters.families import random_backbone
from evaluators.datasets import image_folder
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.fewshot.episodes import accuracy, draw
from evaluators.images import stream
from evaluators.job import Job, Outcome, evaluate
from evaluators.protocols import CATALOGUE
from evaluators.settings.fewshot import FewshotSettings
from tests import image_folders
from tests.reference import fewshot_naive

SMALL = ("resize=36", "crop=32", "way=3", "queries=4", "episodes=20", "workers=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images a class in all; the classes differ a little, so that some queries are wrong."""
    root = tmp_path_factory.mktemp("data") / "greys"
    for label, grey in enumerate((110, 116, 122)):
        for number in range(9):
            path = root / ("train" if number < 6 else "val") / f"c{label}" / f"{number}.png"
            image_folders.image(path, (grey, grey, grey), 10 * label + number)
    return root


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def job(backbone: Backbone, data: Path, workdir: Path, *overrides: str, seed: int = 0) -> Job:
    protocol = CATALOGUE["fewshot@1"].overridden(overrides)
    cpu = torch.device("cpu")
    return Job(backbone, data, protocol, seed=seed, device=cpu, workdir=workdir, features=workdir / "features")


def test_fewshot_is_the_reference_to_the_letter() -> None:
    """linusericsson/ssl-transfer@416913f few_shot.py and datasets/few_shot_dataset.py."""
    settings = CATALOGUE["fewshot@1"].settings
    assert settings.model_dump(exclude={"workers", "batch_size"}) == {
        "task": "fewshot",
        "precision": "fp32",
        "way": 5,
        "shots": (5, 20),
        "queries": 15,
        "episodes": 600,
        "resize": int(224 * 1.15),
        "crop": 224,
        "geometry": "squash-crop",
        "interpolation": "bilinear",
    }


def test_accuracy_equals_the_naive_loop() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 7)).astype(np.float32)
    for episode in range(20):
        support, queries = draw([np.arange(c, 60, 6) for c in range(6)], way=4, shots=3, queries=5, seed=episode)
        expected = fewshot_naive.accuracy(features[support].tolist(), features[queries].tolist())
        assert accuracy(features, support, queries) == pytest.approx(expected)


def test_an_episode_has_no_image_twice_and_queries_of_the_supports_classes() -> None:
    members = [np.arange(c * 10, c * 10 + 10) for c in range(6)]
    support, queries = draw(members, way=4, shots=3, queries=7, seed=1)
    both = np.concatenate([support, queries], axis=1)
    assert (support.shape, queries.shape) == ((4, 3), (4, 7))
    assert len(np.unique(both)) == 40
    assert ((both // 10) == (both[:, :1] // 10)).all()
    assert len(set(support[:, 0] // 10)) == 4
    assert not np.array_equal(support, draw(members, way=4, shots=3, queries=7, seed=2)[0])


def run(backbone: Backbone, data: Path, workdir: Path, *overrides: str, seed: int = 0) -> Outcome:
    return evaluate(job(backbone, data, workdir, *SMALL, *overrides, seed=seed))


def test_evaluate(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    outcome = run(backbone, data, tmp_path)
    found = {metric.name: metric for metric in outcome.metrics}
    assert outcome.notes == ("no 20-shot: 0 classes have 24 images",)
    assert list(found) == ["top1_5shot", "ci95_5shot"]
    assert {metric.n for metric in outcome.metrics} == {20 * 3 * 4}
    assert outcome.receipt.after == backbone.fingerprint

    # By hand: features of train and val behind each other, the same episodes, the naive vote.
    asked = job(backbone, data, tmp_path, *SMALL)
    settings = asked.protocol.settings
    assert isinstance(settings, FewshotSettings)
    images = image_folder.read(data)
    frozen = freeze(backbone, asked.device, [view_of(asked, settings)])
    values = np.concatenate([extract(asked, frozen, split, settings)[0].values for split in (images.train, images.val)])
    labels = np.concatenate([images.train.labels, images.val.labels])
    accuracies = []
    for episode in range(20):
        members = [np.flatnonzero(labels == c) for c in range(3)]
        support, queries = draw(members, way=3, shots=5, queries=4, seed=stream(0, 5, episode))
        accuracies.append(100 * fewshot_naive.accuracy(values[support].tolist(), values[queries].tolist()))
    with (tmp_path / "episodes.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["shots"], line["episode"]) for line in lines] == [("5", str(number)) for number in range(1, 21)]
    assert [float(line["accuracy"]) for line in lines] == pytest.approx(accuracies, abs=1e-3)
    assert 40.0 < found["top1_5shot"].value < 100.0
    assert found["top1_5shot"].value == pytest.approx(np.mean(accuracies))
    assert found["ci95_5shot"].value == pytest.approx(1.96 * np.std(accuracies) / math.sqrt(20))
    assert run(backbone, data, tmp_path, seed=1).metrics != outcome.metrics


def test_too_few_images_for_the_headline(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected 3 classes with 15 images each .*, found 0; .*--set queries=5"):
        run(backbone, data, tmp_path, "queries=10")
    with pytest.raises(UserError, match=r"shots that give the headline top1_5shot, found \[3\]"):
        run(backbone, data, tmp_path, "shots=[3]")
