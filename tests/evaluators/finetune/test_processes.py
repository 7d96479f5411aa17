from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from converters.errors import UserError
from converters.families import random_backbone
from converters.metadata import Preprocess
from evaluators.datasets import image_folder
from evaluators.finetune.norm import declare
from evaluators.finetune.state import State
from evaluators.finetune.train import Rates, train
from evaluators.images import Images, random_view
from evaluators.job import evaluate
from evaluators.settings.finetune import FinetuneSettings
from evaluators.svm.kept import Kept
from evaluators.svm.workers import shared
from tests import image_folders
from tests.distributed import run_ranks
from tests.evaluators.finetune.tuning import SETTINGS, job

# 9 images in batches of 4, 4 and 1: in the last, one of two processes has no image.
ONE_GROUP = FinetuneSettings.model_validate(
    SETTINGS.model_dump() | {"epochs": 1, "milestones": (), "batch_size": 4, "crop": 33}
)
PARTS = FinetuneSettings.model_validate(ONE_GROUP.model_dump() | {"norm_images": 2})
EVALUATE = (
    *("resize=44", "crop=40", "batch_size=6", "epochs=1", "milestones=[]", "norm_images=3", "workers=0"),
    "lr_random_init=0.01",
)


def tune(root: Path, workdir: Path, settings: FinetuneSettings) -> tuple[dict[str, torch.Tensor], float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = {
            "conv1": nn.Conv2d(3, 8, 3, stride=2),
            "bn1": nn.BatchNorm2d(8),
            "relu": nn.ReLU(),
            "conv2": nn.Conv2d(8, 16, 3, stride=2, bias=False),
            "bn2": nn.BatchNorm2d(16),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(16, 3),
        }
        # In float64 the order of a sum does not matter to what is compared.
        module = nn.Sequential(OrderedDict(layers)).double()
    declare(module, settings.norm_images)
    view = random_view(Preprocess(), crop=settings.crop, scale=(0.5, 1.0), interpolation="bilinear")
    images = Images(image_folder.read(root).train, view, seed=(0,))
    state = State(workdir / "state", str(settings))
    curve = train(module, images, settings, Rates(0.02, 1e-3), order_seed=0, state=state, label="tune")
    return module.state_dict(), curve[-1].loss


def double(value: int) -> int:
    return 2 * value


def refuse() -> int:
    raise AssertionError("it was done before")


def rank_tests(rank: int, folder: Path, expected: Path) -> None:
    root, workdir = folder / "data", folder / f"rank{rank}"
    workdir.mkdir()
    alone = torch.load(expected, weights_only=True)
    for name, settings in (("one group", ONE_GROUP), ("parts", PARTS)):
        found, loss = tune(root, workdir, settings)
        assert loss == pytest.approx(alone[name]["loss"], rel=1e-9), name
        for key, value in alone[name]["module"].items():
            # Weights and running statistics are those of one process.
            torch.testing.assert_close(
                found[key], value, rtol=1e-7, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
            )

    shared_folder = folder / "together"
    outcome = evaluate(job(random_backbone("resnet18", 0), root, shared_folder, *EVALUATE))
    assert [metric.n for metric in outcome.metrics] == [3, 3, 3]
    assert outcome.notes[-1].startswith("batch normalisation over 3 images in 2 processes: as with one, up to float32")
    assert rank or (shared_folder / "predictions.npz").is_file()  # rank 0 wrote it

    # An image that one process meets ends both.
    if rank == 0:
        next((root / "train" / "red").iterdir()).write_bytes(b"no image")
    torch.distributed.barrier()
    with pytest.raises(UserError, match="expected an image that can be decoded"):
        tune(root, workdir, ONE_GROUP)

    tasks = [(double, {"value": number}) for number in range(5)]
    kept = Kept(job(random_backbone("resnet18", 0), root, shared_folder), "data", "tasks", int)
    assert shared(tasks, values=1, label="tasks", kept=kept) == [0, 2, 4, 6, 8]
    # Both processes' results are kept, and none is computed again.
    again = Kept(job(random_backbone("resnet18", 0), root, shared_folder), "data", "tasks", int)
    assert shared([(refuse, {})] * 5, values=1, label="tasks", kept=again) == [0, 2, 4, 6, 8]


def test_processes_share_a_batch_and_its_statistics(tmp_path: Path) -> None:
    root = image_folders.make(tmp_path / "data", train=3, val=1)
    (tmp_path / "together").mkdir()
    alone = {}
    for name, settings in (("one group", ONE_GROUP), ("parts", PARTS)):
        module, loss = tune(root, tmp_path, settings)
        alone[name] = {"module": {key: value.clone() for key, value in module.items()}, "loss": loss}
    torch.save(alone, tmp_path / "alone.pt")
    run_ranks(rank_tests, 2, tmp_path, tmp_path / "alone.pt")
