"""The corrected files, read by the real frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters import families, to_detectron2, to_openmmlab
from converters.backbone import Backbone
from converters.errors import UserError
from converters.lint import lint, openmmlab_config
from converters.lint.fix import write_fixed
from tests import checkpoints
from tests.lint_configs import CITYSCAPES_FCN, COCO_C4_HEAD, COCO_FPN, MOCO, MSRA, but_remote, python_config, voc_yaml


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return families.random_backbone("resnet50", 5)


def detectron2_config(path: Path) -> Any:
    pytest.importorskip("detectron2")
    from converters import detectron2_compat

    detectron2_compat.prepare()
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


def mmengine_config(path: Path) -> Any:
    pytest.importorskip("mmengine")
    from mmengine.config import Config

    return Config.fromfile(str(path))


def test_every_trap_of_a_detectron2_yaml_is_corrected(tmp_path: Path, backbone: Backbone) -> None:
    path = tmp_path / "r50.yaml"
    path.write_text(
        "MODEL:\n  WEIGHTS: detectron2://ImageNetPretrained/MSRA/R-50.pkl\n  RESNETS: {DEPTH: 101}\n"
        "DATASETS:\n  TRAIN: ('voc_2007_trainval', 'voc_2012_trainval')\n  TEST: ('voc_2007_test',)\n"
        "SOLVER:\n  IMS_PER_BATCH: 8\n  STEPS: (18000, 22000)\n  MAX_ITER: 24000\nVERSION: 2\n",
        encoding="utf-8",
    )
    before = path.read_bytes()
    weights = tmp_path / "moco.pkl"
    to_detectron2.write_weights(backbone, weights)
    report = lint(path, backbone.metadata, source=weights)
    assert {finding.rule for finding in report.findings} == {
        *("channel-order", "mean", "std", "stride-position", "frozen-stages", "frozen-bn", "arch", "extra-norm"),
        *("precise-bn", "weights-other", "class-count", "learning-rate", "schedule", "warmup"),
    }
    fixed = write_fixed(path, report)
    assert fixed == tmp_path / "r50.fixed.yaml"
    assert path.read_bytes() == before
    text = fixed.read_text(encoding="utf-8")
    assert "_BASE_: r50.yaml\n" in text
    assert "  FORMAT: RGB  # channel-order: " in text
    assert "META_ARCHITECTURE" not in text  # only what changes
    assert lint(fixed, backbone.metadata, source=weights).findings == ()

    cfg = detectron2_config(fixed)
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == (50, "SyncBN", False)
    assert cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 20
    assert str(weights) == cfg.MODEL.WEIGHTS
    assert cfg.TEST.PRECISE_BN.ENABLED is True
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (0.01, 48000, (36000, 44000))
    assert cfg.SOLVER.WARMUP_ITERS == 200
    assert cfg.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval")  # the base's own


def test_every_trap_of_an_mmseg_file_is_corrected(tmp_path: Path, backbone: Backbone) -> None:
    pytest.importorskip("mmseg")
    folder = openmmlab_config.installed("mmseg", tmp_path) / ".mim" / "configs" / "fcn"
    stock = folder / "fcn_r50-d8_4xb2-40k_cityscapes-769x769.py"
    path = tmp_path / "fcn-d8_4xb2.py"  # a name that Python could not import
    path.write_text(
        f"_base_ = {str(stock)!r}\n"
        "norm_cfg = dict(type='BN', requires_grad=False)\n"
        "model = dict(\n"
        "    data_preprocessor=dict(mean=[0.485, 0.456, 0.406], std=[1, 1, 1], bgr_to_rgb=False),\n"
        "    backbone=dict(norm_cfg=norm_cfg, norm_eval=True, frozen_stages=1, style='caffe',\n"
        "        contract_dilation=False),\n"
        "    decode_head=dict(num_classes=21))\n"
        "optim_wrapper = dict(optimizer=dict(lr=0.1))\n",
        encoding="utf-8",
    )
    weights = tmp_path / "moco.pth"
    to_openmmlab.write_weights(backbone, weights)
    report = lint(path, backbone.metadata, gpus=4, source=weights)
    assert {finding.rule for finding in report.findings} == {
        *("channel-order", "mean", "std", "preprocessors-differ", "deep-stem", "stride-position", "frozen-stages"),
        *("frozen-bn", "norm-kind", "pretrained", "contract-dilation", "class-count", "learning-rate"),
    }
    fixed = write_fixed(path, report)
    assert lint(fixed, backbone.metadata, gpus=4, source=weights).findings == ()

    cfg = mmengine_config(fixed)
    assert cfg.model.pretrained is None
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.model.data_preprocessor.std == [58.395, 57.12, 57.375]
    assert cfg.model.data_preprocessor.bgr_to_rgb is True
    own = cfg.model.backbone
    assert (own.type, own.depth, own.style, own.norm_eval, own.frozen_stages) == ("ResNet", 50, "pytorch", False, -1)
    assert own.norm_cfg == {"type": "SyncBN", "requires_grad": True}
    assert own.contract_dilation is True
    assert own.init_cfg == {"type": "Pretrained", "checkpoint": str(weights)}
    assert cfg.model.decode_head.num_classes == 19
    assert cfg.model.decode_head.norm_cfg.type == "SyncBN"
    assert cfg.optim_wrapper.optimizer.lr == 0.01
    assert cfg.model.decode_head.channels == 512  # the base's own


def test_one_gpu_gets_plain_batch_norm_in_every_part(tmp_path: Path) -> None:
    path = python_config(tmp_path, CITYSCAPES_FCN, "train_dataloader['batch_size'] = 8")
    fixed = write_fixed(path, lint(path, MOCO, gpus=1))
    model = mmengine_config(fixed).model
    assert [part.norm_cfg.type for part in (model.backbone, model.decode_head, model.auxiliary_head)] == ["BN"] * 3
    assert but_remote(lint(fixed, MOCO, gpus=1)) == []


def test_keys_that_go_and_values_in_lists(tmp_path: Path) -> None:
    raw = checkpoints.write(tmp_path / "moco.pth.tar", checkpoints.moco("resnet50"))
    backbone = families.read(raw)
    to_openmmlab.write_weights(backbone, tmp_path / "mine.pth")
    init = f"dict(type='Pretrained', checkpoint={str(tmp_path / 'mine.pth')!r}, prefix='encoder.')"
    path = python_config(
        tmp_path,
        COCO_FPN + COCO_C4_HEAD,
        f"model['backbone']['init_cfg'] = {init}",  # its names are plain
        "param_scheduler = [dict(type='LinearLR', by_epoch=False, begin=0, end=500), 1, param_scheduler[1]]",
        "model['roi_head']['bbox_head'] = [dict(num_classes=80), dict(num_classes=21)]",
        "model['roi_head']['shared_head']['init_cfg'] = None",
        "model['auxiliary.head'] = dict(norm_cfg=dict(type='BN'))",
    )
    report = lint(path, backbone.metadata, gpus=8)
    assert [finding.rule for finding in report.findings] == [
        "norm-kind",
        "init-prefix",
        "shared-head-weights",
        "class-count",
    ]
    fixed = write_fixed(path, report)
    assert lint(fixed, backbone.metadata, gpus=8).findings == ()
    model = mmengine_config(fixed).model
    plain = {"type": "Pretrained", "checkpoint": str(tmp_path / "mine.pth")}
    assert model.backbone.init_cfg == plain
    assert model.roi_head.shared_head.init_cfg == plain
    assert [head.num_classes for head in model.roi_head.bbox_head] == [80, 80]
    assert model["auxiliary.head"].norm_cfg.type == "SyncBN"


def test_a_new_style_file_is_corrected_in_its_own_style(tmp_path: Path) -> None:
    (tmp_path / "stock.py").write_text(CITYSCAPES_FCN, encoding="utf-8")
    path = tmp_path / "mine.py"
    path.write_text(
        "from mmengine.config import read_base\n\nwith read_base():\n    from .stock import *\n\n"
        "model.update(dict(backbone=dict(type='ResNetV1c', init_cfg=None)))\nload_from = 'x.pth'\n",
        encoding="utf-8",
    )
    report = lint(path, MOCO, source=Path("moco.pth"))
    assert [finding.rule for finding in report.findings] == ["deep-stem", "weights-absent", "load-from"]
    fixed = write_fixed(path, report)
    cfg = mmengine_config(fixed)
    assert cfg.load_from is None
    assert cfg.model.backbone.type == "ResNet"
    assert cfg.model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "moco.pth"}
    assert cfg.model.backbone.depth == 50
    odd = path.rename(tmp_path / "mine-too.py")
    with pytest.raises(UserError, match="rename it"):
        write_fixed(odd, report)
    assert not (tmp_path / "mine-too.fixed.py").exists()


def test_what_only_the_user_can_know_stays_named(tmp_path: Path) -> None:
    path = python_config(
        tmp_path, COCO_FPN + COCO_C4_HEAD, "model['roi_head']['shared_head'].update(type='ResLayer', norm_eval=True)"
    )
    fixed = write_fixed(path, lint(path, MOCO, gpus=8))
    report = lint(fixed, MOCO, gpus=8)
    assert [finding.rule for finding in but_remote(report)] == ["extra-norm"]
    assert not report.clean


def test_a_corrected_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = voc_yaml(tmp_path)
    report = lint(path, MSRA)
    fixed = write_fixed(path, report)
    before = fixed.read_bytes()
    with pytest.raises(UserError, match="--force"):
        write_fixed(path, report)
    assert fixed.read_bytes() == before
    write_fixed(path, report, force=True)
