"""Segmentation in mmsegmentation, on scenes of 64 pixels."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from converters.architectures import architecture
from converters.backbone import Backbone
from converters.errors import CheckFailed, MissingPackage, UserError
from converters.families import random_backbone
from converters.metadata import Preprocess
from converters.receipt import openmmlab_receipt
from evaluators.framework_log import framework_log
from evaluators.job import Job, Outcome, evaluate
from evaluators.protocol import Protocol
from evaluators.protocols import CATALOGUE
from evaluators.segmentation import config
from evaluators.settings.segmentation import SegmentationSettings
from tests.evaluators import scenes

TINY = ("iterations=3", "batch_size=2", "scale=[64, 64]", "crop=48", "head_channels=16")


@pytest.fixture(autouse=True)
def _framework(tmp_path: Path) -> Iterator[None]:
    """What mmseg warns of, at its import too, goes to a file."""
    with framework_log(tmp_path / "framework.log", ("mmengine", "mmcv", "mmseg")):
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = {"train": scenes.scenes(4, 64, 0), "val": scenes.scenes(3, 64, 1)}
    return scenes.write_cityscapes(tmp_path / "data", made)


def protocol(*assignments: str) -> Protocol:
    return CATALOGUE["quickstart-segmentation@1"].overridden((*TINY, *assignments))


def run(root: Path, workdir: Path, used: Protocol, seed: int = 3) -> Outcome:
    workdir.mkdir()
    return evaluate(
        Job(random_backbone("resnet18", 0), root, used, seed, torch.device("cpu"), workdir, workdir / "features")
    )


def settings_of(protocol_id: str) -> SegmentationSettings:
    settings = CATALOGUE[protocol_id].settings
    assert isinstance(settings, SegmentationSettings)
    return settings


def live(protocol_id: str, backbone: Backbone) -> Any:
    """A segmentor that holds the backbone."""
    import mmseg.models
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    init_default_scope("mmseg")
    made = config.model(settings_of(protocol_id), architecture(backbone.arch), backbone.preprocess, norm="BN")
    model = mmseg.models.build_segmentor(ConfigDict(made))
    model.backbone.load_state_dict(dict(backbone.tensors), strict=True)
    return model


def test_the_papers_protocol_is_appendix_a5() -> None:
    """arXiv:1911.05722: stride 16, two 3x3 convolutions of 256 channels with dilation 6, steps at 70 % and 90 %."""
    settings = settings_of("cityscapes-fcn16-90k@1")
    made = config.model(settings, architecture("resnet50"), Preprocess(), norm="SyncBN")
    backbone, head = made["backbone"], made["decode_head"]
    assert (backbone["type"], backbone["depth"], backbone["style"]) == ("ResNet", 50, "pytorch")
    assert (backbone["frozen_stages"], backbone["norm_eval"]) == (-1, False)
    assert (backbone["strides"], backbone["dilations"]) == ((1, 2, 2, 1), (1, 1, 1, 2))
    assert backbone["norm_cfg"] == head["norm_cfg"] == {"type": "SyncBN", "requires_grad": True}
    assert [head[key] for key in ("in_channels", "channels", "num_convs", "dilation", "concat_input")] == [
        2048,
        256,
        2,
        6,
        False,
    ]
    assert "auxiliary_head" not in made
    assert made["test_cfg"] == {"mode": "whole"}
    assert config.param_scheduler(settings) == [
        {"type": "MultiStepLR", "milestones": [63_000, 81_000], "gamma": 0.1, "by_epoch": False}
    ]
    assert config.optim_wrapper(settings)["optimizer"] == {
        "type": "SGD",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }
    steps = {step["type"]: step for step in config.train_dataloader(settings, Path("x"))["dataset"]["pipeline"]}
    assert steps["RandomResize"]["ratio_range"] == (0.5, 2.0)
    assert steps["RandomCrop"]["crop_size"] == (769, 769)
    assert steps["RandomFlip"]["prob"] == 0.5
    assert "PhotoMetricDistortion" not in steps
    assert (settings.iterations, settings.batch_size) == (90_000, 16)


def test_openmmlabs_protocol_has_stride_8_an_auxiliary_head_and_windows() -> None:
    settings = settings_of("cityscapes-fcn-d8-40k@1")
    made = config.model(settings, architecture("resnet50"), Preprocess(), norm="SyncBN")
    assert (made["backbone"]["strides"], made["backbone"]["dilations"]) == ((1, 2, 1, 1), (1, 1, 2, 4))
    assert made["backbone"]["contract_dilation"]
    assert [made["decode_head"][key] for key in ("channels", "num_convs", "concat_input", "dropout_ratio")] == [
        512,
        2,
        True,
        0.1,
    ]
    auxiliary = made["auxiliary_head"]
    assert [auxiliary[key] for key in ("in_channels", "in_index", "channels", "num_convs")] == [1024, 2, 256, 1]
    assert auxiliary["loss_decode"]["loss_weight"] == 0.4
    assert made["decode_head"]["align_corners"]
    assert auxiliary["align_corners"]
    assert made["test_cfg"] == {"mode": "slide", "crop_size": (769, 769), "stride": (513, 513)}
    assert config.param_scheduler(settings) == [
        {"type": "PolyLR", "power": 0.9, "eta_min": 1e-4, "begin": 0, "end": 40_000, "by_epoch": False}
    ]
    assert config.optim_wrapper(settings)["optimizer"]["weight_decay"] == 5e-4
    assert (settings.batch_size, settings.crop) == (8, 769)


@pytest.mark.parametrize(
    ("protocol_id", "arch", "stride"),
    [
        ("cityscapes-fcn16-90k@1", "resnet50", 16),
        ("cityscapes-fcn-d8-40k@1", "resnet18", 8),
        ("quickstart-segmentation@1", "resnet18", 16),
    ],
)
def test_the_live_segmentor_has_the_stride_and_holds_every_tensor(protocol_id: str, arch: str, stride: int) -> None:
    backbone = random_backbone(arch, 0)
    model = live(protocol_id, backbone)
    assert openmmlab_receipt(model, backbone.metadata, loaded_order="BGR").live == backbone.fingerprint
    assert not [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    with torch.no_grad():
        assert model.backbone(torch.zeros(2, 3, 64, 64))[3].shape[-2:] == (64 // stride, 64 // stride)
    model.train()
    assert all(module.training for module in model.backbone.modules())


def test_the_receipt_refuses_one_changed_weight_and_other_inputs() -> None:
    backbone = random_backbone("resnet18", 0)
    model = live("quickstart-segmentation@1", backbone)
    weight = model.backbone.layer3[1].conv2.weight
    kept = weight.data[3, 5, 1, 1].item()
    weight.data[3, 5, 1, 1] = float(np.nextafter(np.float32(kept), np.float32(1)))
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        openmmlab_receipt(model, backbone.metadata, loaded_order="BGR")
    weight.data[3, 5, 1, 1] = kept
    assert openmmlab_receipt(model, backbone.metadata, loaded_order="BGR").live == backbone.fingerprint
    mean = model.data_preprocessor.mean
    mean.copy_(mean.flip(0))
    with pytest.raises(CheckFailed, match="other inputs"):
        openmmlab_receipt(model, backbone.metadata, loaded_order="BGR")


def test_images_enter_as_the_backbone_was_trained() -> None:
    """From a BGR image of bytes to (RGB / 255 - mean) / std, and to plain BGR minus mean for Caffe's weights."""
    from mmseg.structures import SegDataSample

    source = random_backbone("resnet18", 0)
    loaded = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    caffe = Preprocess(channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1, 1, 1), value_range=(0, 255))
    for preprocess in (Preprocess(), caffe):
        backbone = Backbone(source.arch, source.tensors, source.origin, preprocess)
        model = live("quickstart-segmentation@1", backbone)
        assert openmmlab_receipt(model, backbone.metadata, loaded_order="BGR").live == backbone.fingerprint
        found = model.data_preprocessor({"inputs": [loaded], "data_samples": [SegDataSample()]})["inputs"][0]
        ordered = loaded.flip(0) if preprocess.channel_order == "RGB" else loaded
        scaled = ordered / 255 if preprocess.value_range == (0, 1) else ordered.float()
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
        torch.testing.assert_close(found, (scaled - mean) / std)


def test_the_same_job_twice_gives_the_same_outcome_and_writes_into_its_folder_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    first, second = (run(root, tmp_path / name, protocol("auxiliary_weight=0.4")) for name in ("first", "second"))
    assert first == second
    assert [metric.name for metric in first.metrics] == ["mIoU", "mAcc", "aAcc"]
    assert all(0 <= metric.value <= 100 and metric.n == 3 for metric in first.metrics)
    assert first.receipt.live == random_backbone("resnet18", 0).fingerprint
    assert first.dataset.images == {"train": 4, "val": 3}
    assert first.notes == ("SyncBN became BN: one process on cpu sees the whole batch",)
    assert not list(elsewhere.iterdir())
    assert not list((tmp_path / "first").rglob("*.pth"))


def test_training_changes_the_weights_behind_the_receipt(root: Path, tmp_path: Path) -> None:
    from mmengine.hooks import Hook

    from evaluators.segmentation import train

    backbone = random_backbone("resnet18", 0)
    seen: dict[str, Any] = {}

    class Look(Hook):  # type: ignore[misc]
        """Looks at the live model before the first iteration and after the last."""

        priority = "LOWEST"

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002 - mmengine
            if batch_idx == 0:
                seen["before"] = openmmlab_receipt(runner.model, backbone.metadata, loaded_order="BGR").live

        def after_train(self, runner: Any) -> None:
            seen["after"] = {name: value.clone() for name, value in runner.model.backbone.state_dict().items()}
            with pytest.raises(CheckFailed, match="does not hold the backbone"):
                openmmlab_receipt(runner.model, backbone.metadata, loaded_order="BGR")

    class Runner(train.QuietRunner):  # type: ignore[misc]
        def __init__(self, *, custom_hooks: list[Any], **kwargs: Any) -> None:
            super().__init__(custom_hooks=[*custom_hooks, Look()], **kwargs)

    original = train.QuietRunner
    train.QuietRunner = Runner
    try:
        outcome = run(root, tmp_path / "work", protocol())
    finally:
        train.QuietRunner = original
    assert seen["before"] == outcome.receipt.live == backbone.fingerprint
    for name in ("conv1.weight", "bn1.weight", "bn1.running_mean", "layer4.1.conv2.weight"):
        assert not torch.equal(seen["after"][name], backbone.tensors[name]), name


def test_miou_is_that_of_one_confusion_matrix_and_255_is_ignored() -> None:
    """Against numpy and scikit-learn, over images of several sizes; one class is never there, one only predicted."""
    from evaluators.segmentation.metric import UnroundedIoU

    draw = np.random.default_rng(0)
    classes = 6
    metric = UnroundedIoU(iou_metrics=["mIoU"], ignore_index=255)
    metric.dataset_meta = {"classes": tuple("abcdef")}
    truths, guesses = [], []
    for height, width in ((20, 30), (41, 17), (8, 8)):
        truth = draw.integers(0, classes - 2, (height, width))
        guess = np.where(draw.random(truth.shape) < 0.6, truth, draw.integers(0, classes - 1, truth.shape))
        truth[draw.random(truth.shape) < 0.2] = 255
        sample = {
            "pred_sem_seg": {"data": torch.from_numpy(guess)[None]},
            "gt_sem_seg": {"data": torch.from_numpy(truth)[None]},
        }
        metric.process({}, [sample])
        truths.append(truth.ravel())
        guesses.append(guess.ravel())
    found = metric.evaluate(size=3)

    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    kept = truth != 255
    by_hand = np.bincount(truth[kept] * classes + guess[kept], minlength=classes**2).reshape(classes, classes)
    np.testing.assert_array_equal(by_hand, confusion_matrix(truth[kept], guess[kept], labels=range(classes)))
    right, union = np.diag(by_hand), by_hand.sum(0) + by_hand.sum(1) - np.diag(by_hand)
    assert (union == 0).sum() == 1
    assert found["mIoU"] == pytest.approx(100 * np.mean(right[union > 0] / union[union > 0]), rel=1e-12)
    labelled = by_hand.sum(1) > 0
    assert found["mAcc"] == pytest.approx(100 * np.mean((right / by_hand.sum(1).clip(1))[labelled]), rel=1e-12)
    assert found["aAcc"] == pytest.approx(100 * right.sum() / by_hand.sum(), rel=1e-12)
    assert 20 < found["mIoU"] < 80


def test_the_lines_of_training_and_test_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the progress rewrites its line: what follows must start on another."""
    from evaluators.segmentation.train import ShowProgress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    hook = ShowProgress(iterations=1, test_images=1)
    hook.before_train(None)
    hook.after_train_iter(None, 0, outputs={"loss": torch.tensor(0.5)})
    hook.after_train(None)
    assert shown.getvalue().endswith("\n")
    hook.before_test(None)
    hook.after_test_iter(None, 0, outputs=["one"])
    hook.after_test(None)
    first, second, rest = shown.getvalue().split("\n")
    assert "segmentation training  1/1" in first
    assert "segmentation test  1/1" in second
    assert rest == ""
    hook.before_train(None)
    with pytest.raises(CheckFailed, match="not finite"):
        hook.after_train_iter(None, 0, outputs={"loss": torch.tensor(float("nan"))})
    assert shown.getvalue().endswith("\n")


def test_another_number_of_classes_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the 19 classes of Cityscapes, found 5"):
        run(root, tmp_path / "work", protocol("num_classes=5"))


def test_a_loss_that_is_not_finite_fails_the_check(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="the loss is not finite at iteration"):
        run(root, tmp_path / "work", protocol("lr=1e30", "iterations=6"))


def test_an_absent_framework_names_its_command(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mmcv" else find(name))
    with pytest.raises(
        MissingPackage, match=r"the package mmcv for segmentation.*pip install 'moco-transfer\[mmseg\]'"
    ):
        run(root, tmp_path / "work", protocol())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"type": "LoadImageFromFile", "imdecode_backend": "tifffile"}], "expected images loaded in colour by cv2"),
        ([{"type": "LoadImageFromFile", "color_type": "unchanged"}], "expected images loaded in colour by cv2"),
        ([{"type": "LoadImageFromNDArray"}], "expected images loaded in colour by cv2"),
        ([{"type": "LoadImageFromFile"}, {"type": "RGB2Gray"}], "expected steps that keep the channel order"),
    ],
)
def test_an_unknown_order_of_loaded_channels_is_refused(steps: list[dict[str, Any]], message: str) -> None:
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope

    from evaluators.segmentation import train

    def dataset(pipeline: list[dict[str, Any]]) -> Any:
        with DefaultScope.overwrite_default_scope("mmseg"):
            return SimpleNamespace(pipeline=Compose(pipeline))

    for loader in (config.train_dataloader, config.test_dataloader):
        whole = loader(protocol("photometric_distortion=true").settings, Path())["dataset"]["pipeline"]
        assert train.loaded_order(dataset(whole)) == "BGR"
    with pytest.raises(CheckFailed, match=message):
        train.loaded_order(dataset(steps))
