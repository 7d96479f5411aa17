"""What may lie in a run's folder: foreign, damaged or changed files, and other processes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converters import families, hashing
from converters.backbone import Backbone
from converters.distributed import World
from converters.errors import CheckFailed, UserError
from converters.lock import exclusive
from pretrain import checkpoint, resume
from pretrain.__main__ import main
from pretrain.log import EpochRow, RunLog
from pretrain.model import MoCo
from pretrain.plan import checked
from pretrain.recipes import QUICKSTART_MOCO_V2
from pretrain.step import Step
from pretrain.train import pretrain
from tests.distributed import run_ranks
from tests.pretrain.made_images import make_images

OVERRIDES = ("epochs=2", "batch_size=8", "bn_groups=2", "image_size=32", "queue_size=16", "keep_last=9")
RECIPE = QUICKSTART_MOCO_V2.overridden(OVERRIDES)
ON_CPU = torch.device("cpu")
FIRST, LAST = "checkpoint_0000.pth.tar", "checkpoint_0001.pth.tar"
COMMAND = ["quickstart-moco-v2@1", *(word for assignment in OVERRIDES for word in ("--set", assignment))]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One batch of 8."""
    return make_images(tmp_path_factory.mktemp("images"), 8)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    pretrain(RECIPE, images, out, device=ON_CPU)
    return out


@pytest.mark.parametrize("foreign", ["other weights", "no backbone"])
def test_a_foreign_backbone_is_not_taken_for_the_runs_own(
    finished: Path, images: Path, tmp_path: Path, foreign: str
) -> None:
    shutil.copy(finished / LAST, tmp_path)
    if foreign == "other weights":
        families.random_backbone("resnet18", 3).save(tmp_path / "backbone.safetensors")
    else:
        (tmp_path / "backbone.safetensors").write_bytes(b"no backbone")
    backbone = Backbone.load(pretrain(RECIPE, images, tmp_path, device=ON_CPU))
    assert backbone.fingerprint == Backbone.load(finished / "backbone.safetensors").fingerprint
    assert backbone.origin.sha256 == hashing.sha256_of(tmp_path / LAST)


HEADER = ",".join(EpochRow.model_fields)


def epochs_kept(out: Path) -> list[str]:
    with RunLog(out, start=9, done=18, images=1):
        pass
    with (out / "log.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "cut", ["3,6,1", "3,6,1.5,x,0,0.1,9,0,0\n", "3,6,1.5,0,0,0.1,9,0,0", "3,6,1.5,0,0,0.1,9,0,0,9\n", "\0\n"]
)
def test_a_log_is_kept_up_to_the_first_row_that_is_not_whole(tmp_path: Path, cut: str) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\n1,2,3,0,0,0.1,9,0,0\n2,4,2,0,0,0.1,9,0,0\n{cut}")
    assert epochs_kept(tmp_path) == ["1", "2"]


def test_a_foreign_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("time,loss\n1,2\n")
    with pytest.raises(UserError, match=r"log.csv: expected a log with the columns epoch,step.*'time,loss'"):
        RunLog(tmp_path, start=1, done=2, images=1)
    assert (tmp_path / "log.csv").read_text() == "time,loss\n1,2\n"


def test_a_full_disk_leaves_the_log_as_it_was(finished: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(finished / FIRST, tmp_path)
    shutil.copy(finished / "log.csv", tmp_path)
    (tmp_path / ".log.csv.partial").symlink_to("/dev/full")
    with pytest.raises(CheckFailed, match="No space left"):
        pretrain(RECIPE, images, tmp_path, device=ON_CPU)
    assert (tmp_path / "log.csv").read_text() == (finished / "log.csv").read_text()


def ruin(name: str) -> Callable[[dict[str, Any]], object]:
    def shrink(content: dict[str, Any]) -> None:
        content["state_dict"]["module.queue"] = torch.zeros(3, 3)

    def shrink_momentum(content: dict[str, Any]) -> None:
        next(iter(content["optimizer"]["state"].values()))["momentum_buffer"] = torch.zeros(3)

    ways: dict[str, Callable[[dict[str, Any]], object]] = {
        "bare": lambda content: [content.pop(key) for key in list(content) if key != "schema"],
        "without rng": lambda content: content["rng"].pop("torch"),
        "another epoch": lambda content: content.update(epoch=7),
        "another shape": shrink,
        "another momentum": shrink_momentum,
        "no parameter groups": lambda content: content["optimizer"].pop("param_groups"),
        "no generator state": lambda content: content["rng"].update(torch=torch.zeros(3)),
    }
    return ways[name]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("bare", "with the field 'epoch', found none"),
        ("without rng", "with 'torch' in the field 'rng', found none"),
        ("another epoch", "expected 1 finished epochs and 0 steps, as its name says, found 7 and 0"),
        ("another shape", "expected the state of this recipe's model.*queue"),
        ("another momentum", "momentum_buffer of shape"),
        ("no parameter groups", "param_groups"),
        ("no generator state", "expected the state of this recipe's model"),
    ],
)
def test_a_checkpoint_of_other_content_is_refused(
    finished: Path, images: Path, tmp_path: Path, fault: str, message: str
) -> None:
    content = torch.load(finished / FIRST, weights_only=True)
    ruin(fault)(content)
    torch.save(content, tmp_path / FIRST)
    with pytest.raises(UserError, match=rf"{FIRST}: .*{message}.*; remove it"):
        pretrain(RECIPE, images, tmp_path, device=ON_CPU)


def test_a_ruined_state_is_never_a_checkpoint(images: Path, tmp_path: Path) -> None:
    # The one step of an epoch has a finite loss, and a rate so high that the weights overflow.
    recipe = RECIPE.overridden(("lr=1e38", "weight_decay=1e5"))
    with pytest.raises(CheckFailed, match=r"the state \(\S+\) is not finite at step 1, lr 3.125e\+36; newest.*none"):
        pretrain(recipe, images, tmp_path, device=ON_CPU)
    assert not list(tmp_path.glob("checkpoint*"))


def test_one_run_at_a_time_in_a_folder(finished: Path, images: Path) -> None:
    with (
        exclusive(finished, "pretraining"),
        pytest.raises(UserError, match="no other pretraining in this folder, found one at work"),
    ):
        pretrain(RECIPE, images, finished, device=ON_CPU, force=True)
    assert (finished / LAST).is_file()


def test_a_child_that_outlives_a_run_does_not_hold_its_folder(tmp_path: Path) -> None:
    (awaken, end), (ready, started) = os.pipe(), os.pipe()
    with exclusive(tmp_path, "work"):
        child = os.fork()
        if child == 0:
            os.write(started, b"x")
            os.read(awaken, 1)
            os._exit(0)
        os.read(ready, 1)
    # As a killed run ends: nothing was unlocked, its files were closed.
    try:
        with exclusive(tmp_path, "work"):
            pass
    finally:
        os.write(end, b"x")
        os.waitpid(child, 0)
        for pipe in (awaken, end, ready, started):
            os.close(pipe)


@pytest.mark.parametrize("place", ["below a file", "no place"])
def test_a_path_that_cannot_be_made_is_named(
    images: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run" if place == "below a file" else Path("/proc/run")
    assert main([*COMMAND, "--data", str(images), "-o", str(out), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out}: expected a {'folder' if place == 'below a file' else 'place where a file can be written'}" in line


@pytest.mark.parametrize("seed", ["-1", str(2**63), "9" * 5000, "1.5", "x"])
def test_a_seed_out_of_range_is_one_line(seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["moco-v1@1", "--data", str(tmp_path), "-o", str(tmp_path), f"--seed={seed}"])
    assert ended.value.code == 2
    assert "expected a seed: a whole number from 0 to 2**63 - 1" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match="expected a seed"):
        families.read_source(f"random:resnet18:{seed}")


def test_the_largest_seed_is_one(images: Path) -> None:
    assert families.read_source(f"random:resnet18:{2**63 - 1}").origin.pretrain_seed == 2**63 - 1


def test_a_mistake_of_all_processes_is_told_by_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(tmp_path), "-o", str(tmp_path / "out")]
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["moco-v3@1", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == lines
    with pytest.raises(SystemExit):
        main(["moco-v1@1", *words, "--unknown"])
    assert capsys.readouterr().err == ""


def test_a_mistake_that_one_process_meets_is_told_by_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    monkeypatch.setenv("RANK", "1")
    words = [*COMMAND, "--data", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2
    assert "expected images that can be read, found" in capsys.readouterr().err


def test_help_tells_the_launchers_exit_code() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pretrain", "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "torchrun, where it starts the processes, ends with 1" in done.stdout


def in_two_processes(rank: int, images: Path, more: Path, folder: Path) -> None:
    """One start of the processes for all cases, because the start is what costs."""
    # Begun by one process with two BN groups: two processes go on with the same computation.
    pretrain(RECIPE, images, folder / "crossed", device=ON_CPU)

    with pytest.raises(UserError, match="the processes see different data or checkpoints"):
        pretrain(RECIPE, (images, more)[rank], folder / "data", device=ON_CPU)

    told = r"found nothing;" if rank else r"found nothing \(in process 1\);"
    with pytest.raises(UserError, match=told):
        pretrain(RECIPE, (images, folder / "nowhere")[rank], folder / "no data", device=ON_CPU)
    assert not (folder / "no data").exists()

    pretrain(RECIPE, images, folder / "whole", device=ON_CPU)
    if rank == 0:
        for name in ("parts", "rank 0"):
            (folder / name).mkdir()
            shutil.copy(folder / "whole" / FIRST, folder / name)
    torch.distributed.barrier()
    with pytest.raises(UserError, match=r"different data or checkpoints.*-o must be on a file system that all share"):
        pretrain(RECIPE, images, folder / f"rank {rank}", device=ON_CPU)
    torch.manual_seed(99 + rank)  # new processes start from other states
    pretrain(RECIPE, images, folder / "parts", device=ON_CPU)


def test_two_processes_stop_together_and_resume_to_the_bit(images: Path, tmp_path: Path) -> None:
    pretrain(RECIPE, images, tmp_path / "alone", device=ON_CPU)
    (tmp_path / "crossed").mkdir()
    shutil.copy(tmp_path / "alone" / FIRST, tmp_path / "crossed")
    run_ranks(in_two_processes, 2, images, make_images(tmp_path / "more", 9), tmp_path)
    alone, crossed = (torch.load(tmp_path / out / LAST, weights_only=True) for out in ("alone", "crossed"))
    assert (alone["group"], crossed["group"]) == ({"processes": 1}, {"processes": 2})
    for name, value in alone["state_dict"].items():  # one fp32 step apart
        assert (value.double() - crossed["state_dict"][name].double()).abs().max() <= 1e-4, name

    one, other = (torch.load(tmp_path / out / LAST, weights_only=True) for out in ("whole", "parts"))
    assert all(torch.equal(one["state_dict"][name], value) for name, value in other["state_dict"].items())
    buffers = [[state["momentum_buffer"] for state in c["optimizer"]["state"].values()] for c in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))
    assert torch.equal(one["rng"]["torch"], other["rng"]["torch"])


def test_what_is_restored_does_not_hang_on_the_file(finished: Path, images: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(finished / LAST, tmp_path))
    model = MoCo("resnet18", queue_size=16, mlp=True)
    step = Step(model, RECIPE)
    optimizer = step.optimizer
    saved = checkpoint.load(path)
    resume.check_same_run(saved.content, path, checked(RECIPE, images, finished, 0, World(0, 1, 1, ON_CPU)).run)
    resume.restore(saved.content, path, step)
    mapped = {value.untyped_storage().data_ptr() for value in saved.content["state_dict"].values()}
    mapped |= {s["momentum_buffer"].untyped_storage().data_ptr() for s in saved.content["optimizer"]["state"].values()}
    kept = [*model.state_dict().values(), *(s["momentum_buffer"] for s in optimizer.state.values())]
    assert mapped.isdisjoint(value.untyped_storage().data_ptr() for value in kept)
