"""The receipts as the documentation shows them, in real runs of the frameworks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from converters import conversion, receipt
from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.families import random_backbone
from converters.parity import quiet

ROOT = Path(__file__).parents[2]


def documented(containing: str) -> str:
    """The one block of Python in docs/converting.md that holds this."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/converting.md").read_text(), flags=re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 3)


@pytest.fixture(scope="module")
def converted(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    conversion.convert(backbone, "mmseg", folder / "moco.pth")
    conversion.convert(backbone, "detectron2", folder / "moco.pkl")
    return folder


@pytest.fixture
def scope() -> Iterator[None]:
    """mmengine's current scope, left as it was."""
    from mmengine.registry import DefaultScope

    with quiet(), DefaultScope.overwrite_default_scope("mmseg"):
        yield


def configuration(folder: Path, fragment: Path, steps: int = 1) -> Any:
    """A segmentation run of `steps` iterations on two images of noise, with the fragment's settings."""
    from mmengine.config import Config

    noise = np.random.default_rng(0)
    for kind, shape, suffix in (("images", (32, 32, 3), ".jpg"), ("labels", (32, 32), ".png")):
        (folder / kind).mkdir(exist_ok=True)
        for number in range(2):
            pixels = noise.integers(0, 255 if kind == "images" else 2, shape, np.uint8)
            PIL.Image.fromarray(pixels).save(folder / kind / f"{number}{suffix}")
    made = Config.fromfile(fragment)
    made.model.backbone.norm_cfg = {"type": "BN", "requires_grad": True}
    made.model.type = "EncoderDecoder"
    made.model.test_cfg = {"mode": "whole"}
    made.model.data_preprocessor.size = (32, 32)
    made.model.decode_head = {
        "type": "FCNHead",
        "in_channels": 512,
        "in_index": 3,
        "channels": 4,
        "num_convs": 1,
        "num_classes": 2,
        "norm_cfg": {"type": "BN"},
    }
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    made.train_dataloader = {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "InfiniteSampler", "shuffle": False},
        "dataset": {
            "type": "BaseSegDataset",
            "data_root": str(folder),
            "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
            "metainfo": {"classes": ("a", "b")},
            "pipeline": pipeline,
        },
    }
    made.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps}
    made.optim_wrapper = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}}
    made.default_hooks = {"logger": None, "checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False}}
    made.default_scope = "mmseg"
    made.log_level = "ERROR"
    made.work_dir = str(folder / "run")
    made.experiment_name = str(folder).replace("/", "_")
    return made


@pytest.mark.usefixtures("scope")
def test_the_documented_hook_proves_a_run_and_leaves_its_receipt(
    backbone: Backbone, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.runner import Runner

    monkeypatch.chdir(converted)
    runner = Runner.from_cfg(configuration(tmp_path, converted / "moco.py"))
    exec(documented("runner.register_hook"), {"runner": runner})
    paper = receipt.Receipt.model_validate_json((tmp_path / "run" / "receipt.json").read_text())
    assert (paper.framework, paper.backbone, paper.live) == ("mmseg", backbone.fingerprint, backbone.fingerprint)
    assert runner.iter == 1
    moved = runner.model.backbone.conv1.weight
    assert not torch.equal(moved, backbone.tensors["conv1.weight"])

    # The run goes on from its own checkpoint, whose weights are tuned: the receipt of its beginning stands.
    longer = configuration(tmp_path, converted / "moco.py", steps=2)
    exec(documented("custom_hooks"), settings := {})
    longer.custom_imports, longer.custom_hooks = settings["custom_imports"], settings["custom_hooks"]
    longer.resume, longer.experiment_name = True, longer.experiment_name + "_2"
    resumed = Runner.from_cfg(longer)
    before = (tmp_path / "run" / "receipt.json").read_bytes()
    resumed.train()
    assert (resumed.iter, (tmp_path / "run" / "receipt.json").read_bytes()) == (2, before)
    longer.train_cfg.max_iters = 3
    other = paper.model_copy(update={"backbone": "0" * 64}).model_dump_json()
    for number, (content, message) in enumerate(
        (
            (None, "expected the receipt of this run's beginning, found none"),
            ("", "expected a receipt, found another or damaged file"),
            (other, "expected a run that began with the backbone .*, found one that began with 000000000000"),
        )
    ):
        (tmp_path / "run" / "receipt.json").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "run" / "receipt.json").write_text(content)
        longer.experiment_name += f"_{number}"
        with pytest.raises(CheckFailed, match=message):
            Runner.from_cfg(longer).train()


@pytest.mark.usefixtures("scope")
def test_the_hook_stops_a_run_that_would_train_from_random_weights(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.runner import Runner

    monkeypatch.chdir(converted)
    made = configuration(tmp_path, converted / "moco.py")
    # mmengine loads a reference checkpoint without its prefix as nothing, and says so in a warning alone.
    made.model.backbone.init_cfg.prefix = None
    made.model.backbone.init_cfg.checkpoint = str(tmp_path / "raw.pth")
    torch.save({"state_dict": {"encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7)}}, tmp_path / "raw.pth")
    runner = Runner.from_cfg(made)
    seen: dict[str, Any] = {"runner": runner}
    with pytest.raises(CheckFailed, match="the mmseg model does not hold the backbone"):
        exec(documented("runner.register_hook"), seen)
    assert runner.iter == 0
    assert not (tmp_path / "run" / "receipt.json").exists()


def test_the_hook_refuses_a_pipeline_whose_order_it_does_not_know() -> None:
    from mmcv.transforms import LoadImageFromFile, Normalize

    from converters.receipt_hook import loaded_order

    class Mine:
        pass

    def dataset(*steps: Any) -> Any:
        return SimpleNamespace(pipeline=SimpleNamespace(transforms=list(steps)))

    assert loaded_order(dataset(LoadImageFromFile(), Mine()), ["Mine"]) == "BGR"
    mixed = SimpleNamespace(dataset=dataset(LoadImageFromFile()), pipeline=[Normalize([0.0] * 3, [1.0] * 3)])
    with pytest.raises(CheckFailed, match="found Normalize"):
        loaded_order(mixed)
    resize = type("Resize", (), {"__module__": "mine"})()
    with pytest.raises(CheckFailed, match=r"found .*mine\.Resize"):
        loaded_order(dataset(LoadImageFromFile(), resize))
    assert loaded_order(SimpleNamespace(datasets=[dataset(LoadImageFromFile())] * 2)) == "BGR"
    with pytest.raises(CheckFailed, match=r"expected steps that keep the channel order, found .*Mine"):
        loaded_order(SimpleNamespace(dataset=dataset(LoadImageFromFile(), Mine())))
    with pytest.raises(CheckFailed, match="expected images loaded in colour by cv2 or pillow"):
        loaded_order(dataset(LoadImageFromFile(color_type="unchanged")))
    with pytest.raises(CheckFailed, match="expected images loaded in colour"):
        loaded_order(SimpleNamespace())


def test_the_documented_lines_for_detectron2(
    backbone: Backbone, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converters import detectron2_model

    monkeypatch.chdir(converted)
    model, cfg = detectron2_model.build(converted / "moco.yaml", converted / "moco.pkl")
    cfg.OUTPUT_DIR = str(tmp_path)
    calls: list[object] = []

    class Trainer:
        def __init__(self) -> None:
            self.model = model

        def resume_or_load(self, resume: bool) -> None:
            calls.append(resume)

        def train(self) -> None:
            calls.append("trained")

    trainer = Trainer()
    exec(documented("detectron2_receipt"), {"trainer": trainer, "cfg": cfg})
    assert calls == [False, "trained"]
    paper = receipt.Receipt.model_validate_json((tmp_path / "receipt.json").read_text())
    assert (paper.framework, paper.live, paper.tensors) == ("detectron2", backbone.fingerprint, 100)
    cfg.INPUT.FORMAT = model.input_format = "BGR"
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        exec(documented("detectron2_receipt"), {"trainer": trainer, "cfg": cfg})
    assert calls == [False, "trained", False]
