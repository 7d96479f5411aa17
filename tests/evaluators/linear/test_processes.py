"""Several processes: the same heads as one, every image once, faults told by all. One start of two ranks for all."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from converters.distributed import gather_values
from converters.errors import UserError
from converters.families import random_backbone
from evaluators.datasets import image_folder
from evaluators.features.frozen import freeze
from evaluators.images import random_view
from evaluators.job import Job, Outcome, evaluate
from evaluators.linear import logistic
from evaluators.linear.batches import FeatureBatches
from evaluators.linear.heads import Heads, start
from evaluators.linear.training import train
from evaluators.protocols import CATALOGUE
from evaluators.settings.linear import LinearSettings
from tests import image_folders
from tests.distributed import run_ranks

COMMON = ("resize=36", "crop=32", "epochs=2", "milestones=[1]", "batch_size=4", "lr=0.02", "workers=0")
PROTOCOLS = {
    "linear-moco@1": COMMON,
    "linear-multihead@1": (*COMMON, "lrs=[0.02, 0.002]", "weight_decays=[0.0]", "head_seeds=[0]", "held_out=0.2"),
    "linear-cached@1": (
        *COMMON[:2],
        "workers=0",
        "penalties=2",
        "lowest_penalty=1e-06",
        "sgd_epochs=2",
        "sgd_lrs=[0.01]",
    ),
}
CPU = torch.device("cpu")


def trained(root: Path, count: int, batch_size: int) -> tuple[dict[str, Tensor], list[int]]:
    """A head trained on the first images, and the labels in the order in which they came."""
    backbone, data = random_backbone("resnet18", 0), image_folder.read(root)
    view = random_view(backbone.preprocess, crop=32, scale=(0.08, 1.0), interpolation="bilinear")
    settings = LinearSettings(epochs=2, batch_size=batch_size, lr=1, milestones=(), crop=32, resize=36, workers=0)
    split, frozen = data.train.take(np.arange(count)), freeze(backbone, CPU, [view])
    batches = FeatureBatches(frozen, split, view, seed=0, settings=settings, device=CPU)
    heads = Heads(start(512, 3, 0.01, 0), lr=[0.05], weight_decay=[1e-3], momentum=0.9)
    seen = [int(label) for _, labels in batches(9, range(count)) for label in labels]
    list(train(heads, batches, epochs=2, milestones=(1,), n=count, seed=0))
    return heads.state(), seen


def outcome(root: Path, workdir: Path, protocol: str, *overrides: str) -> Outcome:
    logistic._LEAST = 4  # 18 images are several shares, as many in one process as in two
    workdir.mkdir(exist_ok=True, parents=True)
    changed = CATALOGUE[protocol].overridden((*PROTOCOLS[protocol], *overrides))
    return evaluate(Job(random_backbone("resnet18", 0), root, changed, 0, CPU, workdir, workdir / "features"))


def in_a_rank(rank: int, root: Path, folder: Path, expected: dict[str, Outcome], alone: dict[int, object]) -> None:
    # 17 = 4 · 4 + 1: the last batch is one image, and a process has none of it.
    for count, one in alone.items():
        state, seen = trained(root, count, 4)
        assert seen == one[1], "an image was lost, doubled or out of its order"
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, one[0][name], rtol=1e-4, atol=1e-5)
    for protocol, before in expected.items():
        found = outcome(root, folder / "ranks" / protocol, protocol)
        assert [found] * 2 == gather_values(found)
        assert [m.name for m in found.metrics] == [m.name for m in before.metrics]
        assert [m.value for m in found.metrics] == pytest.approx([m.value for m in before.metrics], abs=1e-9)
        # The features' rounding decides after how many iterations L-BFGS has converged.
        without = [[re.sub(r"after \d+ iterations", "", note) for note in each.notes] for each in (found, before)]
        assert without[0] == without[1]

    with pytest.raises(UserError, match="batch_size that 2 processes divide, found 5; the nearest that do: 4 and 6"):
        outcome(root, folder / "odd", "linear-moco@1", "batch_size=5")
    gather_values(None)
    damaged = root / "train" / "red" / "05.png"
    if rank == 0:
        damaged.write_bytes(damaged.read_bytes()[:40])
    gather_values(None)
    # Wherever the image falls, both are told which it is.
    with pytest.raises(UserError, match=r"05\.png: expected an image that can be decoded"):
        outcome(root, folder / "damaged", "linear-moco@1")


def test_two_processes_are_one(tmp_path: Path) -> None:
    root = image_folders.make(tmp_path / "colours")
    expected = {protocol: outcome(root, tmp_path / "one" / protocol, protocol) for protocol in PROTOCOLS}
    alone: dict[int, object] = {count: trained(root, count, 4) for count in (17,)}
    run_ranks(in_a_rank, 2, root, tmp_path, expected, alone)
    curves = {
        "linear-moco@1": "linear.csv",
        "linear-multihead@1": "curve.csv",
        "linear-cached@1": "regularisation.csv",
    }
    for protocol, curve in curves.items():
        lines = [(tmp_path / folder / protocol / curve).read_text().splitlines() for folder in ("one", "ranks")]
        assert len(lines[0]) == len(lines[1]) > 2
        assert lines[0][0] == lines[1][0]
