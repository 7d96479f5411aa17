from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from converters.backbone import Backbone
from converters.families import random_backbone
from evaluators.datasets import image_folder
from evaluators.datasets.labels import hold_out
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, Outcome, evaluate
from evaluators.linear import cached
from evaluators.linear.heads import Heads
from evaluators.protocols import CATALOGUE
from evaluators.settings.logistic import CachedSettings
from tests import image_folders

SMALL = (
    "resize=36",
    "crop=32",
    "workers=0",
    "penalties=5",
    "lowest_penalty=0.1",
    "highest_penalty=1000",
    "iterations=500",
    "sgd_epochs=4",
    "sgd_milestones=[3]",
    "sgd_batch_size=4",
    "sgd_lrs=[0.001, 0.01]",
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folders.make(tmp_path_factory.mktemp("data") / "colours")


def job(backbone: Backbone, root: Path, workdir: Path) -> Job:
    workdir.mkdir(exist_ok=True)
    protocol = CATALOGUE["linear-cached@1"].overridden(SMALL)
    return Job(backbone, root, protocol, 0, torch.device("cpu"), workdir, workdir / "features")


def values(outcome: Outcome) -> dict[str, float]:
    return {metric.name: metric.value for metric in outcome.metrics}


def test_the_choice_is_scikit_learns(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    work = job(backbone, root, tmp_path / "a")
    outcome = evaluate(work)
    assert list(values(outcome)) == ["top1", "top5", "top1_sgd", "top5_sgd"]
    assert outcome.receipt.after == backbone.fingerprint

    settings = work.protocol.settings
    assert isinstance(settings, CachedSettings)
    data = image_folder.read(root)
    frozen = freeze(backbone, work.device, [view_of(work, settings)])
    (train,), (val,) = (extract(work, frozen, split, settings) for split in (data.train, data.val))
    kept, out = hold_out(data.train, 0.2, 0, 3)
    x, y = np.asarray(train.values, dtype=np.float64), train.labels
    scores = []
    for penalty in np.logspace(-1, 3, 5):
        model = LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-8).fit(x[kept], y[kept])
        scores.append(100 * model.score(x[out], y[out]))
    with (tmp_path / "a" / "regularisation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["held_out"]) for row in rows] == pytest.approx(scores, abs=1e-3)
    assert [float(row["penalty"]) for row in rows] == pytest.approx(list(np.logspace(-1, 3, 5)))
    best = np.logspace(-1, 3, 5)[int(np.argmax(scores))]
    final = LogisticRegression(C=1 / best, max_iter=5000, tol=1e-8).fit(x, y)
    predicted = np.load(tmp_path / "a" / "predictions.npz")["predicted_lbfgs"]
    assert predicted.tolist() == final.predict(np.asarray(val.values, dtype=np.float64)).tolist()
    assert values(outcome)["top1"] == pytest.approx(100 * (predicted == val.labels).mean())


def test_a_search_that_was_cut_off_goes_on(
    backbone: Backbone, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(job(backbone, root, tmp_path / "whole"))
    fit, penalties = cached.fit, []

    def killed(*args: object, penalty: float, **options: object) -> object:
        penalties.append(penalty)
        if len(penalties) == 3:
            raise KeyboardInterrupt
        return fit(*args, penalty=penalty, **options)

    monkeypatch.setattr(cached, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(job(backbone, root, tmp_path / "cut"))
    assert evaluate(job(backbone, root, tmp_path / "cut")) == whole
    # 0.1 and 1 were done; 10 was cut off, done again, then 100 and 1000, and the fit to all.
    assert penalties[:6] == pytest.approx([0.1, 1, 10, 10, 100, 1000])
    assert len(penalties) == 7
    tables = [(tmp_path / name / "regularisation.csv").read_text() for name in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_sgd_goes_on_behind_the_fits(
    backbone: Backbone, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(job(backbone, root, tmp_path / "whole"))
    step, calls = Heads.step, []

    def killed(self: Heads, *args: Any) -> Any:
        calls.append(len(self))
        if calls.count(1) == 6:  # in the second epoch of the head that is trained on all
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Heads, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(job(backbone, root, tmp_path / "cut"))
    calls.clear()
    monkeypatch.setattr(cached, "fit", None)
    monkeypatch.setattr(Heads, "step", lambda self, *args: (calls.append(len(self)), step(self, *args))[1])
    assert evaluate(job(backbone, root, tmp_path / "cut")) == whole
    assert calls == [1] * 15, "18 images in batches of 4, three of four epochs"
