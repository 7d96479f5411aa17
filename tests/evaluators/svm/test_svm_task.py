from __future__ import annotations

import csv
from pathlib import Path

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
from evaluators.svm import workers
from evaluators.svm.classifier import choose_and_test, unit_rows
from evaluators.svm.problem import Problem
from tests.evaluators.scenes import scenes, write_voc

SMALL = (
    *("resize=72", "crop=64", "workers=0", "costs=[1.0, 0.01]", "low_shot_k=[1, 2]", "low_shot_samples=2"),
    "layers=[{stage: res4, pool: [2, 2, 0]}, {stage: res5}]",
)


def test_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path, {"trainval": scenes(24, 64, 0), "test": scenes(12, 64, 1)})
    backbone = random_backbone("resnet18", 0)
    workdir = tmp_path / "work"
    workdir.mkdir()
    protocol = CATALOGUE["svm-voc07@1"].overridden(SMALL)
    job = Job(backbone, tmp_path, protocol, 0, torch.device("cpu"), workdir, tmp_path / "features")
    outcome = evaluate(job)
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert list(values) == ["mAP", "mAP_res4", "mAP_res5", "mAP_k1", "mAP_k2"]
    assert values["mAP"] == max(values["mAP_res4"], values["mAP_res5"])
    assert {metric.n for metric in outcome.metrics} == {12}
    assert outcome.receipt.after == backbone.fingerprint
    # The scenes have three of the twenty classes.
    assert outcome.notes[1].startswith("17 classes without a positive or a negative image in a split are left out: ")

    # Layer by layer and class by class, from the same features.
    settings = protocol.settings
    assert isinstance(settings, SvmSettings)
    data = voc_labels.read(settings, tmp_path)
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

    # In worker processes the numbers are the same.
    monkeypatch.setattr(workers, "_ALONE", 0)
    assert evaluate(job) == outcome
