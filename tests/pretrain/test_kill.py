"""kill -9 at any byte of a checkpoint's writing leaves the former one usable."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD

from pretrain import checkpoint
from pretrain.checkpoint import Position, Run
from pretrain.recipes import QUICKSTART_MOCO_V2
from pretrain.step import Step
from tests.distributed import processes

KILLS = 50
RECIPE = QUICKSTART_MOCO_V2.overridden(("queue_size=32", "keep_last=2", "keep_every=0"))
RUN = Run(RECIPE, seed=0, fingerprint="ab" * 32, images=64, sample=False, processes=1)


class SmallStep:
    """What `save` reads of a step, with weights of 2 MB instead of a ResNet's 90: fifty kills are to take seconds."""

    def __init__(self) -> None:
        self.mechanism = nn.Sequential(*(nn.Linear(250, 250) for _ in range(8)))
        self.optimizer = SGD(self.mechanism.parameters(), 0.1)
        self.scaler = GradScaler("cpu", enabled=False)


def write_for_ever(out: Path, first: int) -> None:
    """Checkpoint after checkpoint, each filled with its own epoch, as a training of no time would."""
    torch.set_num_threads(1)
    step = SmallStep()
    for epoch in itertools.count(first):
        with torch.no_grad():
            for value in step.mechanism.parameters():
                value.fill_(epoch)
        checkpoint.save(out, RUN, cast("Step", step), Position(epoch))
        checkpoint.prune(out, RECIPE)


def test_fifty_kills_leave_a_whole_checkpoint_each_time(tmp_path: Path) -> None:
    context = processes()
    draw = random.Random(0)
    first, cut_off = 1, 0
    for _ in range(KILLS):
        writer = context.Process(target=write_for_ever, args=(tmp_path, first))
        writer.start()
        deadline = time.monotonic() + 60
        while not checkpoint.path_for(tmp_path, Position(first)).exists():
            assert writer.is_alive(), "the writer failed"
            assert time.monotonic() < deadline, "the writer wrote nothing"
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))  # a few checkpoints
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL, "the writer failed"

        newest = checkpoint.newest(tmp_path)
        assert newest is not None
        saved = checkpoint.load(newest)
        epoch = checkpoint.position_of(newest).epoch
        assert epoch >= first
        for name, value in saved.content["state_dict"].items():
            assert bool((value == epoch).all()), name
        cut_off += len(list(tmp_path.glob(".checkpoint_*.partial")))
        checkpoint.clear_partial(tmp_path)
        first = epoch + 1
    assert cut_off >= KILLS // 5, "the kills must meet writers at work"
    assert 1 <= len(list(tmp_path.glob("checkpoint_*"))) <= RECIPE.keep_last + 1
