from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.families import random_backbone
from evaluators.datasets import voc_labels
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, evaluate
from evaluators.protocols import CATALOGUE
from evaluators.settings.svm import SvmSettings
from evaluators.svm import classifier, workers
from evaluators.svm.classifier import choose_and_test, fit, unit_rows
from evaluators.svm.kept import Kept
from evaluators.svm.problem import Problem
from tests.evaluators.scenes import scenes, write_voc

SMALL = (
    *("resize=72", "crop=64", "workers=0", "costs=[1.0, 0.01]", "low_shot_k=[1, 2]", "low_shot_samples=2"),
    "layers=[{stage: res4, pool: [2, 2, 0]}, {stage: res5}]",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("svm")
    write_voc(root, {"trainval": scenes(24, 64, 0), "test": scenes(12, 64, 1)})
    protocol = CATALOGUE["svm-voc07@1"].overridden(SMALL)
    backbone = random_backbone("resnet18", 0)
    return Job(backbone, root, protocol, 0, torch.device("cpu"), root / "work", root / "features")


def test_evaluate(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, workdir = job.backbone, job.workdir
    outcome = evaluate(job)
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert list(values) == ["mAP", "mAP_res4", "mAP_res5", "mAP_k1", "mAP_k2"]
    assert values["mAP"] == max(values["mAP_res4"], values["mAP_res5"])
    assert {metric.n for metric in outcome.metrics} == {12}
    assert outcome.receipt.after == backbone.fingerprint
    # The scenes have three of the twenty classes.
    assert outcome.notes[1].startswith("17 classes without a positive or a negative image in a split are left out: ")

    # Layer by layer and class by class, from the same features.
    settings = job.protocol.settings
    assert isinstance(settings, SvmSettings)
    data = voc_labels.read(settings, job.data)
    problem = Problem(data, settings, 0)
    frozen = freeze(backbone, job.device, [view_of(job, settings)])
    train, test = (extract(job, frozen, split, settings, settings.layers) for split in (data.train, data.val))
    assert [features.values.shape for features in train] == [(24, 256 * 2 * 2), (24, 512)]
    found: dict[str, list[float]] = {}
    for layer, fitting, testing in zip(settings.layers, train, test, strict=True):
        for c in (0, 1, 2):
            tested = choose_and_test(
                unit_rows(fitting.values),
                data.train.labels[:, c],
                unit_rows(testing.values),
                data.val.labels[:, c],
                settings=settings,
                seed=problem.fit_seed(c),
            )
            found.setdefault(layer.stage, []).append(100 * tested.ap)
    assert {stage: values[f"mAP_{stage}"] for stage in found} == pytest.approx(
        {stage: float(np.mean(aps)) for stage, aps in found.items()}
    )
    with (workdir / "svm.csv").open(newline="") as file:
        written = [float(line["ap"]) for line in csv.DictReader(file)]
    assert written == pytest.approx([*found["res4"], *found["res5"]], abs=1e-3)
    with (workdir / "svm_low_shot.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    # The C that is best on the test images, in the mean over samples.
    means = {
        cost: np.mean([float(e["mAP"]) for e in lines if (e["k"], e["C"]) == ("2", cost)]) for cost in ("1", "0.01")
    }
    assert values["mAP_k2"] == pytest.approx(max(means.values()), abs=1e-3)

    with (workdir / "svm_most_wrong.csv").open(newline="") as file:
        wrong = [line for line in csv.DictReader(file) if line["class"] == "bird"]
    present = {data.val.paths[i].relative_to(data.root).as_posix() for i in np.flatnonzero(data.val.labels[:, 2] > 0)}
    assert {line["image"] for line in wrong if line["label"] == "present"} == present  # at most 10
    assert not present & {line["image"] for line in wrong if line["label"] == "absent"}

    # In worker processes the numbers are the same.
    monkeypatch.setattr(workers, "_ALONE", 0)
    assert evaluate(replace(job, workdir=tmp_path)) == outcome


def test_an_evaluation_that_was_cut_off_goes_on(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = evaluate(replace(job, workdir=tmp_path / "whole"))
    fits = dies = 0

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal fits
        fits += 1
        if fits == dies:
            raise KeyboardInterrupt
        return fit(*arguments, **more)

    monkeypatch.setattr(classifier, "fit", counted)
    cut = replace(job, workdir=tmp_path / "cut")
    # A class: two costs in three folds, and one fit more. Two layers, three classes; then twelve draws, two costs each.
    for fatal in (4 * 7 + 3, 2 * 7 + 4 * 2 + 1):
        fits, dies = 0, fatal
        with pytest.raises(KeyboardInterrupt):
            evaluate(cut)
    fits = dies = 0
    assert evaluate(cut) == outcome
    assert fits == (12 - 4) * 2
    # Another seed draws other images: nothing of this is its own.
    data = outcome.dataset.fingerprint
    assert len(Kept(cut, data, "svm-res4", classifier.Tested).load()) == 3
    assert Kept(replace(cut, seed=1), data, "svm-res4", classifier.Tested).load() == {}
