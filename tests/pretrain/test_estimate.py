"""The estimate: its model against figures worked out by hand, and the command."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from pretrain.__main__ import main
from pretrain.estimate import Measured, _timed_input, forecast, measure
from pretrain.recipes import MOCO_V2, QUICKSTART_MOCO_V2
from tests.pretrain.made_images import make_images

ON_CPU = torch.device("cpu")


def test_the_model_is_the_one_that_is_stated() -> None:
    """MoCo v2 on ImageNet-1M: 200 epochs of 5004 steps of 256, here 168 images/s a device (the reference's V100)."""
    measured = Measured(images=32, step_rate=168, input_rate=1e9, peak_memory=0, gradients=112_000_000, workers=8)
    one = forecast(MOCO_V2, 1_281_167, measured, 1)
    assert (one.batch_size, one.lr, one.steps) == (256, 0.03, 200 * 5004)
    assert one.hours == pytest.approx(200 * 5004 * 256 / 168 / 3600)
    assert one.communication == 0

    eight = forecast(MOCO_V2, 1_281_167, measured, 8)
    sent = 2 * 7 / 8 * 112_000_000 + 7 / 8 * 32 * 3 * 224 * 224 * 4 + 7 * 32 * 128 * 4
    seconds = 32 / 168 + sent / 12.5e9 + 3 * 30e-6
    assert (eight.batch_size, eight.lr) == (256, 0.03)
    assert eight.hours == pytest.approx(200 * 5004 * seconds / 3600)
    # The reference took 53 hours on its eight V100.
    assert 53 < eight.hours < 60

    many = forecast(MOCO_V2, 1_281_167, measured, 64)
    assert (many.batch_size, many.lr, many.steps) == (2048, 0.24, 200 * 625)


def test_a_slow_input_is_the_limit() -> None:
    measured = Measured(images=32, step_rate=1000, input_rate=100, peak_memory=0, gradients=1, workers=1)
    assert forecast(MOCO_V2, 10_000, measured, 1).limit == "input"
    assert forecast(MOCO_V2, 10_000, measured, 1).hours == pytest.approx(200 * 39 * 2.56 / 3600)
    alone = dataclasses.replace(measured, workers=0)
    assert forecast(MOCO_V2, 10_000, alone, 1).hours == pytest.approx(200 * 39 * (2.56 + 0.256) / 3600)


class Slow:
    """Batches that two processes have made ahead; then each takes a tenth of a second."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> None:
        self.given += 1
        if self.given > 4:
            time.sleep(0.1)


def test_batches_that_were_made_ahead_are_not_timed() -> None:
    assert _timed_input(Slow(), 2, ON_CPU) >= 0.1


def test_gradients_are_those_of_the_query_encoder(tmp_path: Path) -> None:
    recipe = QUICKSTART_MOCO_V2.overridden(("batch_size=4", "bn_groups=1", "queue_size=8"))
    measured = measure(recipe, make_images(tmp_path, 8), ON_CPU)
    # ResNet-18 without its classifier has 11,176,512 parameters; the head has 512×512 + 512 + 512×128 + 128.
    assert measured.gradients == 4 * (11_176_512 + 512 * 512 + 512 + 512 * 128 + 128)
    assert measured.images == 4
    assert measured.step_rate > 0
    assert measured.input_rate > 0
    assert measured.peak_memory > 1e8


def test_the_command_shows_devices_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_images(tmp_path / "images", 20), tmp_path / "out"
    sets = ["--set", "batch_size=4", "--set", "queue_size=8", "--set", "epochs=3", "--set", "bn_groups=1"]
    command = ["quickstart-moco-v2@1", *sets, "--data", str(data), "-o", str(out), "--device", "cpu", "--estimate"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "20 images an epoch, 3 epochs: 60 images" in shown
    lines = [line.split() for line in shown.splitlines()]
    (one,) = [words for words in lines if words[0] == "1"]
    assert one[1:4] == ["4", "0.00375", "15"]
    (eight,) = [words for words in lines if words[0] == "8"]
    assert eight[1:] == ["32", "the", "batch", "is", "larger", "than", "an", "epoch"]
    assert not out.exists()
