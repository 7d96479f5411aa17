from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from evaluators.job import Job, Outcome, evaluate
from evaluators.protocols import CATALOGUE
from tests import image_folders

GRID = (
    "resize=36",
    "crop=32",
    "epochs=2",
    "milestones=[1]",
    "batch_size=4",
    "lr=0.02",
    "lrs=[0.02, 0.0001, 1.0e+38]",
    "weight_decays=[0.001, 0.0]",
    "head_seeds=[0, 1]",
    "held_out=0.3",
    "workers=0",
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folders.make(tmp_path_factory.mktemp("data") / "colours")


def run(backbone: Backbone, root: Path, workdir: Path, *overrides: str) -> Outcome:
    workdir.mkdir(exist_ok=True)
    protocol = CATALOGUE["linear-multihead@1"].overridden((*GRID, *overrides))
    device = torch.device("cpu")
    return evaluate(Job(backbone, root, protocol, 0, device, workdir, workdir / "features"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_winner_is_chosen_on_held_out_images(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    outcome = run(backbone, root, tmp_path / "a")
    found = {metric.name: metric for metric in outcome.metrics}
    assert list(found) == ["top1", "top5", "top1_reference", "top1_held_out"]
    assert [metric.n for metric in found.values()] == [9, 9, 9, 6]  # a share of 0.3 of six images is two of each class
    rows = table(tmp_path / "a" / "heads.csv")
    assert len(rows) == 12
    diverged = [row for row in rows if row["diverged"]]
    assert [row["lr"] for row in diverged] == ["1e+38"] * 4
    assert all(row["val_top1"] == "" and "with lr 1e+38" in row["diverged"] for row in diverged)
    sound = [row for row in rows if not row["diverged"]]
    (winner,) = (row for row in rows if "winner" in row["role"])
    assert float(winner["held_out_top1"]) == max(float(row["held_out_top1"]) for row in sound)
    for column, metric in (("val_top1", "top1"), ("val_top5", "top5"), ("held_out_top1", "top1_held_out")):
        assert float(winner[column]) == pytest.approx(found[metric].value, abs=1e-3)
    (reference,) = (row for row in rows if "reference" in row["role"])
    assert (reference["lr"], reference["weight_decay"], reference["seed"]) == ("0.02", "0", "0")
    assert float(reference["val_top1"]) == pytest.approx(found["top1_reference"].value, abs=1e-3)
    predicted = np.load(tmp_path / "a" / "predictions.npz")
    assert 100 * (predicted["predicted_winner"] == predicted["labels"]).mean() == pytest.approx(found["top1"].value)

    curve = table(tmp_path / "a" / "curve.csv")
    last = {row["head"]: row["held_out_top1"] for row in curve if row["epoch"] == "2"}
    assert last == {row["head"]: row["held_out_top1"] for row in sound}
    settings = f"lr {winner['lr']}, weight decay {winner['weight_decay']}, seed {winner['seed']}"
    assert outcome.notes[0] == f"winner of 12 heads: {settings}; chosen on 6 held-out training images"
    assert "4 of 12 heads diverged: heads.csv says which and when" in outcome.notes
    receipt = outcome.receipt
    assert receipt.backbone == receipt.live == receipt.after == backbone.fingerprint


def test_heads_that_all_diverge_fail(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    grid = ("lr=1e+38", "lrs=[1e+38]", "epochs=1")
    with pytest.raises(CheckFailed, match=r"all 4 heads diverged, the last: the loss is (nan|inf) at epoch 1, step"):
        run(backbone, root, tmp_path / "a", *grid)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lrs=[1.0, 3.0]", "the reference's lr 0.02 must be in lrs"),
        ("weight_decays=[0.1]", "the reference's weight_decay 0 must be in weight_decays"),
        ("head_seeds=[1, 1]", "head_seeds must not repeat a value"),
        ("held_out=1", "less than 1"),
    ],
    ids=["lr", "decay", "seeds", "share"],
)
def test_wrong_grids(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CATALOGUE["linear-multihead@1"].overridden((*GRID, assignment))
