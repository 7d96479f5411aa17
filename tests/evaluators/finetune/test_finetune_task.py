from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from evaluators.datasets import image_folder
from evaluators.datasets.metrics import METRICS
from evaluators.finetune.state import Progressed, Tried
from evaluators.finetune.task import grid, held_out, mean_per_class
from evaluators.finetune.train import Rates
from evaluators.job import evaluate
from evaluators.protocols import CATALOGUE
from evaluators.settings.finetune import FinetuneSettings
from tests import image_folders
from tests.evaluators.finetune.tuning import job

SMALL = ("resize=44", "crop=40", "batch_size=9", "epochs=2", "milestones=[1]", "norm_images=null", "workers=0")
FINE = "finetune-finegrained@1"
GRID = ("resize=44", "crop=40", "batch_size=15", "steps=2", "workers=0", "weight_decay=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folders.make(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def test_evaluate(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    outcome = evaluate(job(backbone, data, tmp_path, *SMALL, "lr_random_init=0.01"))
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert list(values) == ["top1", "top5", "mean_per_class"]
    assert all(metric.n == 9 for metric in outcome.metrics)
    # Three plain colours.
    assert values["top1"] > 60.0
    assert values["top5"] == 100.0
    # Three images a class: every class weighs the same.
    assert values["mean_per_class"] == pytest.approx(values["top1"])
    assert outcome.receipt.live == outcome.receipt.backbone == backbone.fingerprint
    assert outcome.receipt.after is None
    assert outcome.notes == ("random weights: lr 0.01",)
    with (tmp_path / "finetune.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["epoch"], float(line["lr"])) for line in lines] == [("1", 0.01), ("2", pytest.approx(0.001))]
    written = np.load(tmp_path / "predictions.npz")
    assert 100.0 * (written["predicted_last"] == written["labels"]).mean() == pytest.approx(values["top1"])
    mistakes = ["confusions.csv", "most_wrong.csv", "per_class.csv"]
    # What is for going on lies apart.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*mistakes, "finetune.csv", "predictions.npz", "unfinished"]
    )


def test_a_grid_is_decided_on_images_held_out(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    small = (*GRID, "lr=[1e9, 1e-9, 0.01]")
    fine = job(backbone, data, tmp_path, *small, protocol=FINE)
    outcome = evaluate(fine)
    with (tmp_path / "finetune_grid.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["lr"]) for line in lines] == [1e9, 1e-9, 0.01]
    # A pair that diverges is as bad as can be, and ends nothing.
    assert float(lines[0]["held_out_top1"]) == 0.0
    assert "not finite" in lines[0]["diverged"] or "the loss is" in lines[0]["diverged"]
    assert not any(line["diverged"] for line in lines[1:])
    best = max(lines[1:], key=lambda line: float(line["held_out_top1"]))
    assert outcome.notes == (
        f"lr {float(best['lr']):g} and weight decay 0 chosen among 3 pairs by top1 on 3 of 18 training images, "
        "held out",
        "1 of 3 pairs diverged: finetune_grid.csv says which and when",
    )
    # What changes no number makes no other training.
    assert Progressed(fine, outcome.dataset.fingerprint).pairs == [
        Tried(float(line["held_out_top1"]), line["diverged"]) for line in lines
    ]
    others = job(backbone, data, tmp_path, *(each for each in small if each != "workers=0"), protocol=FINE)
    assert len(Progressed(others, outcome.dataset.fingerprint).pairs) == 3
    assert Progressed(replace(others, seed=99), outcome.dataset.fingerprint).pairs == []


def test_a_grid_of_which_all_diverge(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "image-folder", "mean_per_class")
    with pytest.raises(CheckFailed, match=r"all 2 pairs of lr and weight decay diverged, the last: .* lr "):
        evaluate(job(backbone, data, tmp_path, *GRID, "lr=[1e9, 1e10]", protocol=FINE))
    # By the data set's own metric, where it is known.
    assert (tmp_path / "finetune_grid.csv").read_text().startswith("lr,weight_decay,held_out_mean_per_class,diverged")


def test_a_pair_is_chosen_on_the_data_sets_own_validation_images(data: Path) -> None:
    settings = CATALOGUE[FINE].settings
    assert isinstance(settings, FinetuneSettings)
    images = image_folder.read(data)
    kept, out, _ = held_out(replace(images, validation=np.array([1, 7])), settings, 0)
    assert out.tolist() == [1, 7]
    assert sorted([*kept, *out]) == list(range(18))
    # Without any, a fifth of each class.
    kept, out, _ = held_out(images, settings, 0)
    assert np.bincount(images.train.labels[out]).tolist() == [1, 1, 1]


def test_pairs_of_the_source(backbone: Backbone, tmp_path: Path) -> None:
    """linusericsson/ssl-transfer@416913f finetune.py: four learning rates, and 0 or four weight decays over each."""
    fine = job(backbone, tmp_path, tmp_path, protocol="finetune-finegrained@1")
    assert isinstance(fine.protocol.settings, FinetuneSettings)
    pairs = grid(fine, fine.protocol.settings)
    assert len(pairs) == 20
    assert pairs[1] == Rates(0.1, pytest.approx(1e-5))
    assert pairs[-1] == Rates(0.0001, pytest.approx(10.0))
    # From scratch the paper has a learning rate of its own.
    inat = CATALOGUE["finetune-inat18@1"].settings
    assert isinstance(inat, FinetuneSettings)
    assert grid(fine, inat) == [Rates(0.1, 1e-4)]
    pretrained = job(
        Backbone("resnet18", backbone.tensors, backbone.origin.model_copy(update={"family": "moco"})),
        tmp_path,
        tmp_path,
    )
    assert grid(pretrained, inat) == [Rates(0.025, 1e-4)]


def test_mean_per_class_weighs_every_class_alike() -> None:
    labels = np.array([0, 0, 0, 0, 2, 2])
    predicted = np.array([0, 0, 0, 1, 2, 0])
    assert mean_per_class(predicted, labels) == pytest.approx((75.0 + 50.0) / 2)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (("steps=10",), "either epochs or steps"),
        (("epochs=null", "steps=10"), "milestones count epochs"),
        (("batch_size=100",), "batch_size 100 must be a multiple of norm_images 32"),
        (("momentum=0", "nesterov=true"), "nesterov needs momentum"),
        (("lr=0",), "greater than 0"),
        ((f"train_list_sha256={'a' * 64}",), "a sha256 without train_list"),
    ],
)
def test_wrong_overrides(assignments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CATALOGUE["finetune-imagenet@1"].overridden(assignments)


def test_one_number_stands_for_a_list() -> None:
    for value in ("0.001", "1e-3"):  # to YAML the second is a text
        changed = CATALOGUE["finetune-imagenet@1"].overridden((f"lr={value}",))
        assert changed.overrides == ("lr=[0.001]",)
