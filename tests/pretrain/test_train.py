"""Whole small runs: what is written, resume to the bit, errors, several processes, the command."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from converters.backbone import Backbone
from converters.distributed import World
from converters.errors import CheckFailed, Stopped, UserError
from pretrain import checkpoint
from pretrain.__main__ import main
from pretrain.checkpoint import Position
from pretrain.info_nce import accuracy
from pretrain.input.images import ImageFolder, open_source
from pretrain.input.pack import Packing, pack
from pretrain.model import MoCo
from pretrain.plan import checked
from pretrain.recipes import QUICKSTART_MOCO_V2
from pretrain.step import Step
from pretrain.train import pretrain
from tests.pretrain.made_images import make_images

ROOT = Path(__file__).parents[2]
OVERRIDES = ("epochs=4", "batch_size=8", "bn_groups=2", "image_size=32", "queue_size=32", "keep_last=9")
RECIPE = QUICKSTART_MOCO_V2.overridden(OVERRIDES)
ON_CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images: two whole batches of 8, and four that each epoch drops."""
    return make_images(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    pretrain(RECIPE, images, out, seed=5, device=ON_CPU)
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the bit, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


def test_a_run_leaves_checkpoints_logs_and_a_backbone(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        ".lock",
        "backbone.head.safetensors",
        "backbone.safetensors",
        *(f"checkpoint_{epoch:04d}.pth.tar" for epoch in range(4)),
        "log.csv",
        "log.png",
        "tensorboard",
    ]
    logged = rows(finished)
    columns = ["epoch", "step", "loss", "top1", "top5", "lr", "images_per_second", "data_wait", "skipped"]
    assert list(logged[0]) == columns
    assert [(row["epoch"], row["step"]) for row in logged] == [("1", "2"), ("2", "4"), ("3", "6"), ("4", "8")]
    # 0.24 per 256 images is 0.0075 for 8; then half a cosine over four epochs.
    assert [float(row["lr"]) for row in logged] == pytest.approx([0.0075, 0.00640165, 0.00375, 0.00109835], rel=1e-5)
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (int(row["step"]), pytest.approx(float(row["loss"]), rel=1e-5)) for row in logged
    ]


def test_the_checkpoint_has_the_references_layout(finished: Path, images: Path) -> None:
    content = torch.load(finished / "checkpoint_0003.pth.tar", weights_only=True)
    assert (content["epoch"], content["arch"]) == (4, "resnet18")
    assert {name.split(".")[0] for name in content["state_dict"]} == {"module"}
    model = MoCo("resnet18", queue_size=32, mlp=True)
    assert {f"module.{name}" for name in model.state_dict()} == content["state_dict"].keys()
    # Two steps an epoch fill 16 of 32 places: after four epochs the pointer is back at 0.
    assert content["state_dict"]["module.queue_ptr"].tolist() == [0]
    # The reference's optimizer holds all parameters, those of the key encoder too; only the others have momentum.
    count = len(list(model.parameters()))
    assert content["optimizer"]["param_groups"][0]["params"] == list(range(count))
    assert len(content["optimizer"]["state"]) == count // 2
    torch.optim.SGD(model.parameters(), 0.1).load_state_dict(content["optimizer"])
    assert content["schema"] == 2
    assert content["recipe"] == RECIPE.model_dump(mode="json")
    assert content["seed"] == 5
    assert content["loader"] == {"epoch": 4, "batch": 0, "sums": [], "layout": {}}
    assert content["group"] == {"processes": 1}
    assert content["rng"].keys() == {"torch", "cuda", "numpy", "python"}
    fingerprint = ImageFolder.open(images).fingerprint
    assert content["data"] == {"fingerprint": fingerprint, "images": 20, "sample": False}


def test_the_backbone_is_the_query_encoder_and_knows_its_origin(finished: Path, images: Path) -> None:
    backbone = Backbone.load(finished / "backbone.safetensors")
    state = torch.load(finished / "checkpoint_0003.pth.tar", weights_only=True)["state_dict"]
    for name, tensor in backbone.tensors.items():
        assert torch.equal(tensor, state[f"module.encoder_q.{name}"]), name
    origin = backbone.origin
    assert (origin.method, origin.epochs, origin.pretrain_seed) == ("MoCo v2", 4, 5)
    assert origin.recipe.startswith("quickstart-moco-v2@1 (epochs=4, ")
    assert origin.pretrain_data == ImageFolder.open(images).fingerprint


def test_two_epochs_and_two_more_equal_four_to_the_bit(finished: Path, images: Path, tmp_path: Path) -> None:
    for name in ("checkpoint_0001.pth.tar", "log.csv"):
        shutil.copy(finished / name, tmp_path / name)
    (tmp_path / ".checkpoint_0002.pth.tar.partial").write_bytes(b"half a checkpoint of a killed run")
    torch.manual_seed(99)  # a new process starts from another state
    pretrain(RECIPE, images, tmp_path, seed=5, device=ON_CPU)
    for epoch in (3, 4):
        path = checkpoint.path_for(finished, Position(epoch))
        one, other = (torch.load(out / path.name, weights_only=True) for out in (finished, tmp_path))
        assert_same(one, other)
    first, second = (Backbone.load(out / "backbone.safetensors") for out in (finished, tmp_path))
    assert first.fingerprint == second.fingerprint
    for one, other in zip(rows(finished), rows(tmp_path), strict=True):
        assert apart_from_time(one) == apart_from_time(other)
    assert not list(tmp_path.glob(".checkpoint*"))


def apart_from_time(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in ("images_per_second", "data_wait")}


@pytest.mark.parametrize("sets", [(), ("workers=2", "pipeline=torchvision", "precision=bf16", "accumulate=2")])
def test_a_stop_in_mid_epoch_changes_no_bit(images: Path, tmp_path: Path, sets: tuple[str, ...]) -> None:
    """Batches of 4: five steps an epoch. All that a killed run leaves is the checkpoint after step 8."""
    recipe = RECIPE.overridden(("epochs=2", "batch_size=4", "save_steps=3", *sets))
    torch.manual_seed(1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(recipe, images, whole, seed=5, device=ON_CPU)
    assert sorted(path.name for path in whole.glob("checkpoint_*")) == [
        "checkpoint_0000.pth.tar",
        "checkpoint_0000_000003.pth.tar",
        "checkpoint_0001.pth.tar",
        "checkpoint_0001_000003.pth.tar",
    ]
    parts.mkdir()
    for name in ("checkpoint_0001_000003.pth.tar", "log.csv"):
        shutil.copy(whole / name, parts)
    torch.manual_seed(99)  # a new process starts from another state
    pretrain(recipe, images, parts, seed=5, device=ON_CPU)
    one, other = (torch.load(out / "checkpoint_0001.pth.tar", weights_only=True) for out in (whole, parts))
    assert_same(one, other)
    assert [apart_from_time(row) for row in rows(whole)] == [apart_from_time(row) for row in rows(parts)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_behind_its_step_and_the_rest_follows_to_the_bit(
    finished: Path, images: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(epochs: int, encoder: nn.Module) -> dict[str, float]:
        if epochs == 2:
            signal.raise_signal(number)
        return {}

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"stopped after step 5, kept in .*checkpoint_0002_000001.pth.tar"):
        pretrain(RECIPE, images, tmp_path, seed=5, device=ON_CPU, monitor=ask)
    assert signal.getsignal(number) is before
    assert not (tmp_path / "backbone.safetensors").exists()
    words = [*COMMAND, "--data", str(images), "-o", str(tmp_path), "--seed", "5", "--device", "cpu"]
    assert main(words) == 0
    assert "goes on after epoch 2 and 1 steps of 4" in capsys.readouterr().err
    one, other = (torch.load(out / "checkpoint_0003.pth.tar", weights_only=True) for out in (finished, tmp_path))
    assert_same(one, other)


def test_a_monitor_sees_the_encoder_and_changes_nothing(finished: Path, images: Path, tmp_path: Path) -> None:
    seen = []

    def look(epochs: int, encoder: nn.Module) -> dict[str, float]:
        assert not encoder.training
        torch.rand(3)  # moves the global generator, unlike what the run must notice
        seen.append(epochs)
        return {"knn": 50.0 + epochs} if epochs % 2 == 0 else {}

    pretrain(RECIPE, images, tmp_path, seed=5, device=ON_CPU, monitor=look)
    assert seen == [1, 2, 3, 4]
    one, other = (torch.load(out / "checkpoint_0003.pth.tar", weights_only=True) for out in (finished, tmp_path))
    assert_same(one, other)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("knn")] == [(4, 52.0), (8, 54.0)]


def test_damaged_images_are_skipped_listed_and_limited(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    damaged = sorted((tmp_path / "images").rglob("*.png"))[3]
    damaged.write_bytes(damaged.read_bytes()[:60])
    recipe = RECIPE.overridden(("epochs=2", "batch_size=20", "queue_size=40"))
    with pytest.raises(UserError, match=r"skipped.csv: expected at most 0 damaged images .*found 1, as .*png"):
        pretrain(recipe, tmp_path / "images", tmp_path / "strict", device=ON_CPU)
    with (tmp_path / "strict" / "skipped.csv").open(newline="") as file:
        assert [row["where"] for row in csv.DictReader(file)] == [str(damaged)]

    pretrain(recipe.overridden(("max_damaged=0.1",)), tmp_path / "images", tmp_path / "lenient", device=ON_CPU)
    assert [row["skipped"] for row in rows(tmp_path / "lenient")] == ["1", "1"]


def test_shards_train_stop_in_mid_epoch_and_go_on_to_the_bit(images: Path, tmp_path: Path) -> None:
    pack(open_source(images), tmp_path / "shards", Packing(shard_images=7))
    recipe = RECIPE.overridden(("epochs=2", "batch_size=4", "save_steps=3", "workers=1"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(recipe, str(tmp_path / "shards"), whole, seed=5, device=ON_CPU)
    parts.mkdir()
    shutil.copy(whole / "checkpoint_0001_000003.pth.tar", parts)
    with pytest.raises(UserError, match=r"expected the images shared out as before.*'lanes': 1"):
        pretrain(recipe.overridden(("workers=2",)), str(tmp_path / "shards"), parts, seed=5, device=ON_CPU)
    pretrain(recipe, str(tmp_path / "shards"), parts, seed=5, device=ON_CPU)
    one, other = (torch.load(out / "checkpoint_0001.pth.tar", weights_only=True) for out in (whole, parts))
    assert_same(one, other)


def test_other_bn_groups_are_another_run(finished: Path, images: Path) -> None:
    with pytest.raises(UserError, match="whose bn_groups is 2, found bn_groups 4"):
        pretrain(RECIPE.overridden(("bn_groups=4",)), images, finished, seed=5, device=ON_CPU)


@pytest.mark.parametrize(
    ("sets", "world", "message"),
    [
        (("bn_groups=3",), 2, "that 2 processes divide, found 3; use --bn-groups 4"),
        (("bn_groups=8",), 1, "at least two images each, found 8 groups and batch_size 8; use --bn-groups 4"),
        (("accumulate=2", "bn_groups=1"), 1, "--bn-groups 2"),
        (("accumulate=2", "mechanism=end-to-end"), 1, "expected accumulate=1 for end-to-end"),
        (("epoch_images=4",), 1, "at least 8 images, one global batch"),
    ],
)
def test_groups_that_do_not_fit_are_told(
    images: Path, tmp_path: Path, sets: tuple[str, ...], world: int, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        checked(RECIPE.overridden(sets), images, tmp_path, 0, World(0, world, world, ON_CPU))
    assert message in str(caught.value)


@pytest.mark.parametrize("mechanism", ["memory-bank", "end-to-end"])
def test_the_other_mechanisms_train_stop_and_give_a_backbone(images: Path, tmp_path: Path, mechanism: str) -> None:
    recipe = RECIPE.overridden(("epochs=2", f"mechanism={mechanism}"))
    for name in ("whole", "parts"):
        pretrain(recipe, images, tmp_path / name, device=ON_CPU)
        if name == "parts":
            (tmp_path / name / "checkpoint_0001.pth.tar").unlink()
            pretrain(recipe, images, tmp_path / name, device=ON_CPU)
    one, other = (Backbone.load(tmp_path / name / "backbone.safetensors") for name in ("whole", "parts"))
    assert one.fingerprint == other.fingerprint
    assert one.origin.method == mechanism


def test_another_seed_gives_another_backbone(finished: Path, images: Path, tmp_path: Path) -> None:
    recipe = QUICKSTART_MOCO_V2.overridden((*OVERRIDES, "epochs=1"))
    pretrain(recipe, images, tmp_path, seed=6, device=ON_CPU)
    state, other = (
        torch.load(out / "checkpoint_0000.pth.tar", weights_only=True)["state_dict"] for out in (finished, tmp_path)
    )
    assert not torch.equal(state["module.encoder_q.conv1.weight"], other["module.encoder_q.conv1.weight"])


def test_a_finished_run_is_left_as_it_is(finished: Path, images: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert pretrain(RECIPE, images, finished, seed=5, device=ON_CPU) == finished / "backbone.safetensors"
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_workers_and_keeping_may_change_between_parts_of_a_run(finished: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "checkpoint_0002.pth.tar", tmp_path)
    recipe = RECIPE.overridden(("workers=1", "keep_last=1", "keep_every=3"))
    backbone = Backbone.load(pretrain(recipe, images, tmp_path, seed=5, device=ON_CPU))
    assert backbone.fingerprint == Backbone.load(finished / "backbone.safetensors").fingerprint
    assert backbone.origin.recipe == Backbone.load(finished / "backbone.safetensors").origin.recipe
    assert len(list(tmp_path.glob("checkpoint_*"))) == 2


@pytest.mark.parametrize(
    ("overrides", "seed", "message"),
    [
        (("temperature=0.1",), 5, "whose temperature is 0.2, found temperature 0.1"),
        ((), 6, "whose seed is 5, found seed 6"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    finished: Path, images: Path, overrides: tuple[str, ...], seed: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(RECIPE.overridden(overrides), images, finished, seed=seed, device=ON_CPU)


def test_other_data_in_the_same_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whose data is"):
        pretrain(RECIPE, make_images(tmp_path, 21), finished, seed=5, device=ON_CPU)


def test_a_truncated_checkpoint_is_named(finished: Path, images: Path, tmp_path: Path) -> None:
    whole = (finished / "checkpoint_0001.pth.tar").read_bytes()
    (tmp_path / "checkpoint_0001.pth.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"checkpoint_0001.pth.tar: expected a whole checkpoint"):
        pretrain(RECIPE, images, tmp_path, seed=5, device=ON_CPU)


def test_force_starts_anew_and_old_checkpoints_are_pruned(finished: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "checkpoint_0003.pth.tar", tmp_path / "checkpoint_0009.pth.tar")
    recipe = RECIPE.overridden(("epochs=3", "keep_last=1", "keep_every=2"))
    pretrain(recipe, images, tmp_path, device=ON_CPU, force=True)
    assert sorted(path.name for path in tmp_path.glob("checkpoint_*")) == [
        "checkpoint_0001.pth.tar",
        "checkpoint_0002.pth.tar",
    ]
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"]


def test_a_loss_that_is_not_finite_stops_the_run(images: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"at step \d, lr 3\.125e\+28; newest checkpoint: none"):
        pretrain(RECIPE.overridden(("lr=1e30",)), images, tmp_path, device=ON_CPU)
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_full_disk_is_named_and_leaves_the_former_checkpoint(images: Path, tmp_path: Path) -> None:
    former = tmp_path / "checkpoint_0003.pth.tar"
    former.write_bytes(b"the former one")
    (tmp_path / ".checkpoint_0003.pth.tar.partial").symlink_to("/dev/full")  # as on a full disk
    run = checked(RECIPE, images, tmp_path, 0, World(0, 1, 1, ON_CPU)).run
    step = Step(MoCo("resnet18", queue_size=32), RECIPE)
    with pytest.raises(CheckFailed, match=r"could not be written.*No space left.*the one before is intact: .*0003"):
        checkpoint.save(tmp_path, run, step, Position(4))
    assert [path.name for path in tmp_path.iterdir()] == [former.name]
    assert former.read_bytes() == b"the former one"


def test_contrastive_accuracy_counts_the_negatives_above() -> None:
    assert accuracy(torch.tensor([0, 1, 4, 5])).tolist() == [25.0, 75.0]


COMMAND = ["quickstart-moco-v2@1", *(word for assignment in OVERRIDES for word in ("--set", assignment))]


def test_two_processes_write_the_same_keys_as_one(finished: Path, images: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    store = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    words = ["-m", "pretrain", *COMMAND, "--set", "epochs=1", "--data", str(images), "-o", str(tmp_path)]
    done = subprocess.run(
        [*launcher, *store, *words, "--seed", "5", "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "batch: 8 over 2 processes on cpu; lr 0.0075 = 0.24 per 256 images × 8 / 256" in done.stderr
    assert done.stdout.count("backbone: ") == 1
    one, two = (torch.load(out / "checkpoint_0000.pth.tar", weights_only=True) for out in (finished, tmp_path))
    assert one.keys() == two.keys()
    described = [
        {name: (value.shape, value.dtype) for name, value in content["state_dict"].items()} for content in (one, two)
    ]
    assert described[0] == described[1]
    assert one["optimizer"]["state"].keys() == two["optimizer"]["state"].keys()
    # The same computation, two fp32 steps of it: BN over the same groups, whichever process they are in.
    for name, value in one["state_dict"].items():
        assert (value.double() - two["state_dict"][name].double()).abs().max() < 2e-2, name
    assert (one["group"], two["group"]) == ({"processes": 1}, {"processes": 2})
    assert two["state_dict"]["module.queue_ptr"].tolist() == [16]
    assert (tmp_path / "backbone.safetensors").is_file()
    assert len(rows(tmp_path)) == 1


def test_the_command_says_how_to_evaluate(finished: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "--data", str(images), "-o", str(finished), "--seed", "5", "--device", "cpu"]
    assert main(words) == 0
    shown = capsys.readouterr()
    backbone = finished / "backbone.safetensors"
    # These images have no validation split.
    assert f"moco-transfer evaluate knn-dino@1 --backbone {backbone} --data FOLDER_WITH_TRAIN_AND_VAL" in shown.out
    assert "complete already: all 4 epochs are done" in shown.err
    assert "BN: 2 groups of 4 images, keys shuffled among all" in shown.err


def test_a_signal_to_the_whole_job_leaves_the_loading_processes_their_work(images: Path, tmp_path: Path) -> None:
    """Schedulers tell every process of a job, those that load images too."""
    words = [*COMMAND, "--set", "workers=1", "--set", "epochs=400", "--data", str(images), "-o", str(tmp_path)]
    started = subprocess.Popen(
        [sys.executable, "-m", "pretrain", *words, "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not list(tmp_path.glob("checkpoint_*")):
            assert started.poll() is None, started.communicate()[1]
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGTERM)
        _, told = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 75, told
    assert "stopped after step" in told
    assert "Traceback" not in told


def test_a_loading_process_that_is_killed_is_one_line(images: Path, tmp_path: Path) -> None:
    def kill(epochs: int, encoder: nn.Module) -> dict[str, float]:
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        return {}

    with pytest.raises(CheckFailed, match="a loading process was killed"):
        pretrain(RECIPE.overridden(("workers=1", "epochs=50")), images, tmp_path, device=ON_CPU, monitor=kill)


def test_a_damaged_image_may_have_any_name(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    odd = os.fsencode(tmp_path / "images" / "train" / "class0") + b"/b\xe9d.png"
    Path(os.fsdecode(odd)).write_bytes(b"no image")
    recipe = RECIPE.overridden(("epochs=1", "batch_size=21", "bn_groups=1", "queue_size=42", "max_damaged=0.1"))
    pretrain(recipe, tmp_path / "images", tmp_path / "out", device=ON_CPU)
    assert r"b\udce9d.png" in (tmp_path / "out" / "skipped.csv").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["moco-v3@1", "--data", "DATA"], "expected the id of a recipe"),
        ([*COMMAND, "--data", "NOWHERE"], "expected a folder of images, a list of files, or tar shards, found nothing"),
        ([*COMMAND, "--data", "DATA", "--set", "queue_size=33"], "use queue_size=32 or batch_size=11"),
        ([*COMMAND, "--data", "DATA", "--set", "arch=resnet19"], "did you mean 'resnet18'"),
        ([*COMMAND, "--data", "DATA", "--set", "batch_size=32"], "--set batch_size=16"),
        ([*COMMAND, "--data", "DATA", "--device", "tpu"], "--device: expected cpu or cuda, found 'tpu'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: list[str], message: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(images), "NOWHERE": str(tmp_path / "nowhere")}
    out = tmp_path / "out"
    assert main([*(places.get(word, word) for word in words), "-o", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pretrain: ")
    assert message in line
    assert not out.exists()


def test_a_damaged_image_ends_the_command_with_its_name(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    words = [*COMMAND, "--data", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2
    assert "expected images that can be read, found" in capsys.readouterr().err.splitlines()[-1]
