"""A disk that is really full: a small file system in memory, where one may be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from converters.backbone import Backbone
from converters.errors import CheckFailed
from pretrain import checkpoint
from pretrain.recipes import QUICKSTART_MOCO_V2
from pretrain.train import pretrain
from tests.pretrain.made_images import make_images

RECIPE = QUICKSTART_MOCO_V2.overridden(("epochs=2", "batch_size=8", "image_size=32", "queue_size=32"))
ON_CPU = torch.device("cpu")
ONE_CHECKPOINT = "200m"  # of ResNet-18: two encoders and the momentum of one, 135 MB
ENOUGH = "600m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ONE_CHECKPOINT}", "tmpfs", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily: of a checkpoint that was loaded, tensors may still be mapped.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_run_on_a_full_disk_keeps_its_checkpoint_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    images, out = make_images(tmp_path / "images", 20), disk / "run"
    with pytest.raises(CheckFailed, match=r"checkpoint_0001\.pth\.tar.*No space left.*intact: .*checkpoint_0000\.pth"):
        pretrain(RECIPE, images, out, seed=5, device=ON_CPU)
    assert sorted(path.name for path in out.glob("*checkpoint*")) == ["checkpoint_0000.pth.tar"]
    assert sorted(path.name for path in out.glob(".checkpoint*")) == []
    assert checkpoint.load(out / "checkpoint_0000.pth.tar").content["epoch"] == 1

    subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", str(disk)], check=True)
    resumed = Backbone.load(pretrain(RECIPE, images, out, seed=5, device=ON_CPU))
    whole = Backbone.load(pretrain(RECIPE, images, tmp_path / "whole", seed=5, device=ON_CPU))
    assert resumed.fingerprint == whole.fingerprint
