"""What makes another network of a ResNet whose tensors all fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.lint import lint
from converters.lint.fix import write_fixed
from tests.lint_configs import CITYSCAPES_FCN, COCO_C4_HEAD, COCO_FPN, MOCO, but_remote, python_config, voc_yaml

BACKBONE = "model['backbone']"
PROBE = """\
model = dict(type='ImageClassifier', data_preprocessor=dict(type='ClsDataPreprocessor', to_rgb=True,
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type='ResNet', depth=50, frozen_stages=4, norm_eval=True, norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='https://x.org/moco_v2_200ep_pretrain.pth.tar',
        prefix='module.encoder_q.')), head=dict(type='LinearClsHead', num_classes=1000))
"""


def config(folder: Path, text: str, *lines: str) -> Path:
    """A configuration for 16 images in detection, for 8 in segmentation."""
    return python_config(folder, text, *lines, name="c_8xb2.py" if text.startswith(COCO_FPN) else "c_4xb2.py")


def found(path: Path) -> list[tuple[str, str, str]]:
    """Rule, key and severity of each finding."""
    return [(finding.rule, finding.key, finding.severity) for finding in but_remote(lint(path, MOCO))]


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (CITYSCAPES_FCN, "norm_cfg['eps'] = 1e-3", "norm_cfg.eps"),
        (CITYSCAPES_FCN, "norm_cfg['affine'] = False", "norm_cfg.affine"),
        (CITYSCAPES_FCN, f"{BACKBONE}['conv_cfg'] = dict(type='ConvWS')", "conv_cfg"),
        (CITYSCAPES_FCN, f"{BACKBONE}['conv_cfg'] = dict(type='ConvAWS')", "conv_cfg"),
        (
            COCO_FPN,
            f"{BACKBONE}.update(dcn=dict(type='DCNv2'), stage_with_dcn=(False, True, True, True))",
            "dcn",
        ),
        (
            CITYSCAPES_FCN,
            f"{BACKBONE}['plugins'] = [dict(cfg=dict(type='ContextBlock'), position='after_conv3')]",
            "plugins",
        ),
        (CITYSCAPES_FCN, f"{BACKBONE}['multi_grid'] = (1, 2, 4)", "multi_grid"),
        (CITYSCAPES_FCN, f"{BACKBONE}['in_channels'] = 1", "in_channels"),
        (CITYSCAPES_FCN, f"{BACKBONE}['num_stages'] = 3", "num_stages"),
        (CITYSCAPES_FCN, f"{BACKBONE}.update(strides=(1, 1, 1, 1), dilations=(1, 1, 1, 1))", "strides"),
        (CITYSCAPES_FCN, f"{BACKBONE}['dilations'] = (1, 1, 1, 2)", "dilations"),
        (COCO_FPN, f"{BACKBONE}.update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))", "strides"),
        (CITYSCAPES_FCN, f"{BACKBONE}['new_option'] = 1", "new_option"),
    ],
)
def test_a_key_that_changes_what_an_openmmlab_resnet_computes(tmp_path: Path, text: str, line: str, key: str) -> None:
    assert found(config(tmp_path, text, line)) == [("network", f"model.backbone.{key}", "error")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CITYSCAPES_FCN, f"{BACKBONE}.update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))"),  # FCN-16s of the paper
        (CITYSCAPES_FCN, f"{BACKBONE}.update(strides=[1, 2, 2, 2], dilations=[1, 1, 1, 1])"),
        (CITYSCAPES_FCN, f"del {BACKBONE}['strides'], {BACKBONE}['dilations']"),
        (CITYSCAPES_FCN, f"{BACKBONE}.update(conv_cfg=None, dcn=None, plugins=None, in_channels=3, with_cp=True)"),
        (CITYSCAPES_FCN, f"{BACKBONE}.update(norm_cfg=dict(type='SyncBN', requires_grad=True, eps=1e-5))"),
        (COCO_FPN + COCO_C4_HEAD, f"{BACKBONE}.update(strides=(1, 2, 2), dilations=(1, 1, 1))"),
    ],
)
def test_what_a_plain_openmmlab_resnet_has_is_no_finding(tmp_path: Path, text: str, line: str) -> None:
    assert found(config(tmp_path, text, line)) == []


@pytest.mark.parametrize(
    "line", ["stride'] = 1", "dilation'] = 2", "dcn'] = dict(type='DCN')", "norm_cfg'] = dict(type='SyncBN', eps=1e-3)"]
)
def test_res5_in_a_c4_head_is_plain_too(tmp_path: Path, line: str) -> None:
    path = config(tmp_path, COCO_FPN + COCO_C4_HEAD, f"model['roi_head']['shared_head']['{line}")
    ((rule, key, _),) = found(path)
    assert rule == "network"
    assert key.startswith("model.roi_head.shared_head.")


@pytest.mark.parametrize(("key", "frozen"), [("backbone", True), ("backbone.layer1", True), ("decode_head", False)])
def test_a_learning_rate_of_0_freezes(tmp_path: Path, key: str, frozen: bool) -> None:
    line = f"optim_wrapper['paramwise_cfg'] = dict(custom_keys={{{key!r}: dict(lr_mult=0.0)}})"
    path = config(tmp_path, CITYSCAPES_FCN, line)
    place = f"optim_wrapper.paramwise_cfg.custom_keys.{key}.lr_mult"
    assert found(path) == ([("frozen-stages", place, "error")] if frozen else [])
    if frozen:
        assert found(write_fixed(path, lint(path, MOCO))) == []


def test_mmpretrain_zeroes_what_a_list_of_init_cfg_loaded(tmp_path: Path) -> None:
    """mmpretrain 1.x, ResNet.init_weights: only an init_cfg that is a dict keeps zero_init_residual away."""
    assert found(config(tmp_path, PROBE)) == []
    as_list = f"{BACKBONE}['init_cfg'] = [{BACKBONE}['init_cfg']]"
    path = config(tmp_path, PROBE, as_list)
    assert found(path) == [("network", "model.backbone.zero_init_residual", "error")]
    assert found(config(tmp_path, PROBE, as_list, f"{BACKBONE}['zero_init_residual'] = False")) == []


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("MODEL.RESNETS.RES5_DILATION: 2", "RES5_DILATION"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE: [False, True, True, True]", "DEFORM_ON_PER_STAGE"),
        ("MODEL.RESNETS.RES5_MULTI_GRID: [1, 2, 4]", "RES5_MULTI_GRID"),
    ],
)
def test_a_key_that_changes_what_detectron2s_resnet_computes(tmp_path: Path, setting: str, key: str) -> None:
    assert found(voc_yaml(tmp_path, setting)) == [("network", f"MODEL.RESNETS.{key}", "error")]


def test_what_detectron2s_plain_resnet_has_is_no_finding(tmp_path: Path) -> None:
    plain = ("MODEL.RESNETS.RES5_DILATION: 1", "MODEL.RESNETS.DEFORM_ON_PER_STAGE: [False, False, False, False]")
    assert found(voc_yaml(tmp_path, *plain, "MODEL.RESNETS.OUT_FEATURES: [res4]")) == []


@pytest.mark.parametrize("line", ["norm_cfg['eps'] = 1e-3", f"{BACKBONE}['conv_cfg'] = dict(type='ConvWS')"])
def test_a_plain_network_is_what_fix_writes(tmp_path: Path, line: str) -> None:
    path = config(tmp_path, CITYSCAPES_FCN, line)
    assert found(write_fixed(path, lint(path, MOCO))) == []
