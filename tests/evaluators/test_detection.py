"""Detection in detectron2, on scenes of 64 pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from converters import detectron2_compat, keymap
from converters.architectures import architecture
from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.metadata import Preprocess
from converters.receipt import detectron2_receipt
from evaluators.datasets import voc
from evaluators.framework_log import framework_log
from evaluators.job import Job, Outcome, evaluate
from evaluators.protocol import Protocol
from evaluators.protocols import CATALOGUE
from evaluators.settings.detection import DetectionSettings
from tests.evaluators import scenes
from tests.reference import voc_ap

TINY = (
    "iterations=3",
    "steps=[2]",
    "warmup=1",
    "batch_size=2",
    "min_size_train=[64]",
    "min_size_test=64",
    "channels=16",
    "box_head_width=16",
    "rois_per_image=8",
)


@pytest.fixture(autouse=True)
def _framework(tmp_path: Path) -> Iterator[None]:
    """detectron2 is importable, and what it warns of goes to a file."""
    with framework_log(tmp_path / "framework.log", ("detectron2", "fvcore")):
        detectron2_compat.prepare()
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scenes.write_voc(tmp_path / "data", {"trainval": scenes.scenes(4, 64, 0), "test": scenes.scenes(3, 64, 1)})
    return tmp_path / "data"


def protocol(*assignments: str) -> Protocol:
    return CATALOGUE["quickstart-detection@1"].overridden((*TINY, *assignments))


def run(root: Path, workdir: Path, used: Protocol, arch: str = "resnet18", seed: int = 3) -> Outcome:
    workdir.mkdir(exist_ok=True)
    return evaluate(Job(random_backbone(arch, 0), root, used, seed, torch.device("cpu"), workdir, workdir / "features"))


def configuration(protocol_id: str, backbone: Backbone, output: Path) -> Any:
    from evaluators.detection import config

    settings = CATALOGUE[protocol_id].settings
    assert isinstance(settings, DetectionSettings)
    return config.build(
        settings,
        architecture(backbone.arch),
        backbone.metadata,
        train=("some_train",),
        test="some_test",
        norm="BN",
        device="cpu",
        seed=0,
        output=output,
    )


def live(protocol_id: str, backbone: Backbone, output: Path) -> tuple[nn.Module, Any]:
    """A detector that holds the backbone, and its configuration."""
    from detectron2.modeling import build_model

    from evaluators.detection.train import load_backbone

    cfg = configuration(protocol_id, backbone, output)
    model: nn.Module = build_model(cfg)
    settings = CATALOGUE[protocol_id].settings
    assert isinstance(settings, DetectionSettings)
    load_backbone(model, backbone, settings)
    return model, cfg


def test_the_voc_protocol_is_the_reference_configuration(tmp_path: Path) -> None:
    """facebookresearch/moco@7397dfe, detection/configs: Base-RCNN-C4-BN.yaml, pascal_voc_R_50_C4_24k(_moco).yaml."""
    assert CATALOGUE["voc0712-c4-24k@1"].settings.model_dump(include={"norm", "train_splits", "test_split"}) == {
        "norm": "naiveSyncBN",
        "train_splits": ("2007_trainval", "2012_trainval"),
        "test_split": "2007_test",
    }
    cfg = configuration("voc0712-c4-24k@1", random_backbone("resnet50", 0), tmp_path)
    expected = {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "MODEL.ROI_HEADS.NUM_CLASSES": 20,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
        "MODEL.MASK_ON": False,
        "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
        "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        "INPUT.MIN_SIZE_TEST": 800,
        "INPUT.MAX_SIZE_TRAIN": 1333,
        "INPUT.RANDOM_FLIP": "horizontal",
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.STEPS": (18000, 22000),
        "SOLVER.MAX_ITER": 24000,
        "SOLVER.WARMUP_ITERS": 100,
        "SOLVER.WARMUP_FACTOR": 1 / 1000,
        "SOLVER.GAMMA": 0.1,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.NESTEROV": False,
        "SOLVER.WEIGHT_DECAY": 1e-4,
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "TEST.PRECISE_BN.ENABLED": True,
        "TEST.PRECISE_BN.NUM_ITER": 200,
    }
    found = {}
    for key in expected:
        node = cfg
        for part in key.split("."):
            node = node[part]
        found[key] = pytest.approx(node) if key.startswith("MODEL.PIXEL") else node
    assert expected == found


def test_weights_that_want_bgr_get_bgr(tmp_path: Path) -> None:
    source = random_backbone("resnet50", 0)
    bytes_in = Preprocess(channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1, 1, 1), value_range=(0, 255))
    backbone = Backbone(source.arch, source.tensors, source.origin, bytes_in, stride_in_1x1=True)
    cfg = configuration("voc0712-c4-24k@1", backbone, tmp_path)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", [1, 1, 1], True)
    assert pytest.approx([103.53, 116.28, 123.675]) == cfg.MODEL.PIXEL_MEAN


def test_c4_holds_all_of_resnet50_has_the_extra_norm_and_freezes_nothing(tmp_path: Path) -> None:
    backbone = random_backbone("resnet50", 0)
    model: Any
    model, cfg = live("voc0712-c4-24k@1", backbone, tmp_path)
    receipt = detectron2_receipt(model, cfg, backbone.metadata)
    assert (receipt.live, receipt.tensors) == (backbone.fingerprint, 265)
    assert not [name for name, parameter in model.named_parameters() if not parameter.requires_grad]

    extra = {name for name in model.state_dict() if name.startswith("roi_heads.res5.norm.")}
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert extra == {f"roi_heads.res5.norm.{name}" for name in tensors}
    assert not extra & set(keymap.detectron2("resnet50", "C4").names.values())
    # It stands behind the last ReLU of res5: what the box head sees is its output.
    res5 = model.roi_heads.res5.eval()
    res5.norm.weight.data.uniform_(0.5, 2)
    res5.norm.running_mean.uniform_(0, 1)
    features = torch.randn(2, 1024, 14, 14)
    with torch.no_grad():
        through_blocks = features
        for block in list(res5.children())[:3]:
            through_blocks = block(through_blocks)
        assert through_blocks.min() >= 0
        torch.testing.assert_close(res5(features), res5.norm(through_blocks))


def test_fpn_normalises_backbone_and_fpn_and_freezes_nothing(tmp_path: Path) -> None:
    backbone = random_backbone("resnet18", 0)
    model, cfg = live("quickstart-detection@1", backbone, tmp_path)
    assert detectron2_receipt(model, cfg, backbone.metadata).live == backbone.fingerprint
    normed = {name.rsplit(".", 1)[0] for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {f"backbone.fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)} < normed
    assert not [name for name in normed if not name.startswith("backbone.")]
    assert not [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def test_the_receipt_refuses_one_changed_weight_and_other_inputs(tmp_path: Path) -> None:
    backbone = random_backbone("resnet18", 0)
    model, cfg = live("quickstart-detection@1", backbone, tmp_path)
    weight = model.get_parameter("backbone.bottom_up.res4.1.conv2.weight")
    kept = weight.data[3, 5, 1, 1].item()
    weight.data[3, 5, 1, 1] = float(np.nextafter(np.float32(kept), np.float32(1)))
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        detectron2_receipt(model, cfg, backbone.metadata)
    weight.data[3, 5, 1, 1] = kept
    assert detectron2_receipt(model, cfg, backbone.metadata).live == backbone.fingerprint
    mean = model.get_buffer("pixel_mean")
    mean.copy_(mean.flip(0))
    with pytest.raises(CheckFailed, match="other inputs"):
        detectron2_receipt(model, cfg, backbone.metadata)


def test_a_backbone_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from evaluators.detection.train import load_backbone

    model, _ = live("quickstart-detection@1", random_backbone("resnet18", 0), tmp_path)
    settings = CATALOGUE["quickstart-detection@1"].settings
    assert isinstance(settings, DetectionSettings)
    with pytest.raises(CheckFailed, match="expected a place for all 216 tensors of the backbone, found none for 96"):
        load_backbone(model, random_backbone("resnet34", 0), settings)


def test_training_changes_the_weights_behind_the_receipt(root: Path, tmp_path: Path) -> None:
    from evaluators.detection import config
    from evaluators.detection.data import registered
    from evaluators.detection.train import Trainer, load_backbone

    settings = protocol().settings
    assert isinstance(settings, DetectionSettings)
    backbone = random_backbone("resnet18", 0)
    with registered(settings, root, tmp_path) as data:
        cfg = config.build(
            settings,
            architecture("resnet18"),
            backbone.metadata,
            train=data.train,
            test=data.test,
            norm="BN",
            device="cpu",
            seed=0,
            output=tmp_path,
        )
        trainer = Trainer(cfg)
        load_backbone(trainer.model, backbone, settings)
        detectron2_receipt(trainer.model, cfg, backbone.metadata)
        trainer.train()
        with pytest.raises(CheckFailed, match="does not hold the backbone"):
            detectron2_receipt(trainer.model, cfg, backbone.metadata)
    names = keymap.detectron2("resnet18", "FPN").names
    state = trainer.model.state_dict()
    # The stem too: detectron2 freezes it by default.
    for name in ("conv1.weight", "bn1.weight", "bn1.running_mean", "layer4.1.conv2.weight"):
        assert not torch.equal(state[names[name]], backbone.tensors[name]), name


def test_the_same_job_twice_gives_the_same_outcome(root: Path, tmp_path: Path) -> None:
    used = protocol("precise_bn=true", "precise_bn_iterations=2")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "metrics.json").write_text('{"total_loss": "of an earlier attempt"}\n')
    first, second = (run(root, tmp_path / name, used) for name in ("first", "second"))
    assert first == second
    assert [metric.name for metric in first.metrics] == ["AP50", "AP", "AP75"]
    assert all(0 <= metric.value <= 100 and metric.n == 3 for metric in first.metrics)
    assert first.receipt.live == random_backbone("resnet18", 0).fingerprint
    assert first.dataset.images == {"2007_trainval": 4, "2007_test": 3}
    assert first.notes == ("SyncBN became BN: one process on cpu sees the whole batch",)
    losses = (tmp_path / "first" / "metrics.json").read_text()
    assert "total_loss" in losses
    assert "earlier attempt" not in losses


def test_coco_in_the_layout_of_coco(tmp_path: Path) -> None:
    data = scenes.write_coco(
        tmp_path / "data", {"train2017": scenes.scenes(4, 64, 0), "val2017": scenes.scenes(3, 64, 1)}
    )
    splits = ("layout=coco", "train_splits=[train2017]", "test_split=val2017")
    outcome = run(data, tmp_path / "work", protocol(*splits, "num_classes=3"))
    assert outcome.dataset.layout == "coco"
    assert all(0 <= metric.value <= 100 and metric.n == 3 for metric in outcome.metrics)
    with pytest.raises(UserError, match="expected 20 classes, as the protocol declares, found 3; override it with"):
        run(data, tmp_path / "other", protocol(*splits))


def test_c4_needs_bottlenecks(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bottleneck blocks for the head C4.*found resnet18; take .* FPN"):
        run(root, tmp_path / "work", CATALOGUE["voc0712-c4-24k@1"])


def test_a_loss_that_is_not_finite_fails_the_check(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="the loss is not finite"):
        run(root, tmp_path / "work", protocol("lr=1e30", "iterations=6", "warmup=0"))


def test_images_without_objects_are_refused(root: Path, tmp_path: Path) -> None:
    for annotation in (root / "VOCdevkit" / "VOC2007" / "Annotations").iterdir():
        annotation.write_text(annotation.read_text().replace("<difficult>0", "<difficult>1"))
    with pytest.raises(UserError, match="expected objects in the training and the test split, found none"):
        run(root, tmp_path / "work", protocol())


def test_the_loader_sees_what_detectron2s_own_sees(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.data.datasets import load_voc_instances

    from evaluators.detection.data import voc_dicts

    monkeypatch.setattr(np, "str", str, raising=False)  # the name that NumPy 1.24 dropped, and detectron2 0.6 uses
    theirs = load_voc_instances(str(root / "VOCdevkit" / "VOC2007"), "trainval", voc.CLASS_NAMES)
    assert theirs == voc_dicts(voc.read_split(root, "2007_trainval").images)


@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_a_naive_implementation(root: Path, tmp_path: Path, seed: int) -> None:
    """Random detections near and far from random objects, some difficult, of two of the 20 classes."""
    from detectron2.structures import Boxes, Instances

    from evaluators.detection.data import registered

    draw = np.random.default_rng(seed)
    names = ("bird", "cat")
    ranks = list(draw.permutation(1000))  # no two scores alike: their order would be nobody's to say
    folder = root / "VOCdevkit" / "VOC2007"
    truth: dict[str, dict[str, list[tuple[voc_ap.Box, bool]]]] = {name: {} for name in names}
    found: dict[str, list[tuple[str, float, voc_ap.Box]]] = {name: [] for name in names}
    outputs = []
    ids = (folder / "ImageSets" / "Main" / "test.txt").read_text().split()
    for image in ids:
        objects = ""
        boxes, scores, kinds = [], [], []
        for name in names:
            truth[name][image] = []
            for _ in range(4):
                left, top = (int(value) for value in draw.integers(1, 40, 2))
                width, height = (int(value) for value in draw.integers(8, 24, 2))
                box = (left, top, left + width, top + height)
                difficult = bool(draw.random() < 0.25)
                truth[name][image].append((box, difficult))
                sides = "".join(
                    f"<{side}>{value}</{side}>"
                    for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
                )
                objects += (
                    f"<object><name>{name}</name><pose>x</pose><truncated>0</truncated>"
                    f"<difficult>{int(difficult)}</difficult><bndbox>{sides}</bndbox></object>"
                )
                for spread in (1.0, 4.0, 30.0):
                    moved = np.round(np.array(box) + draw.normal(0, spread, 4), 1)
                    moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                    # detectron2 writes scores with three places and boxes with one.
                    score = float(ranks.pop()) / 1000
                    found[name].append((image, score, tuple(float(f"{value:.1f}") for value in moved)))
                    boxes.append(moved - [1, 1, 0, 0])
                    scores.append(score)
                    kinds.append(voc.CLASS_NAMES.index(name))
        size = "<size><width>64</width><height>64</height></size>"
        (folder / "Annotations" / f"{image}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        instances = Instances((64, 64))
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes)))
        instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(kinds)
        outputs.append({"instances": instances})

    settings = protocol().settings
    assert isinstance(settings, DetectionSettings)
    with registered(settings, root, tmp_path) as data:
        data.evaluator.reset()
        data.evaluator.process([{"image_id": image} for image in ids], outputs)
        result = data.evaluator.evaluate()["bbox"]
    expected = {
        threshold: 100
        * np.mean([voc_ap.average_precision(found[name], truth[name], threshold / 100) for name in names])
        for threshold in range(50, 100, 5)
    }
    assert result["AP50"] == pytest.approx(expected[50])
    assert result["AP75"] == pytest.approx(expected[75])
    assert result["AP"] == pytest.approx(np.mean(list(expected.values())))
    assert 5 < expected[50] < 95
    assert math.isfinite(result["AP"])
