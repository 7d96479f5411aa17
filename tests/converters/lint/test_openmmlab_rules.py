"""Each rule on a configuration that has its trap alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters import families, to_openmmlab
from converters.errors import UserError
from converters.lint import lint
from converters.metadata import BackboneMetadata
from tests import checkpoints
from tests.lint_configs import CITYSCAPES_FCN, COCO_C4_HEAD, COCO_FPN, MOCO, MSRA, but_remote, python_config

BACKBONE = "model['backbone']"
SHARED_HEAD = "model['roi_head']['shared_head']"


def found(path: Path, metadata: BackboneMetadata = MOCO, gpus: int | None = None) -> list[tuple[str, str, str]]:
    """Rule, key and severity of each finding."""
    return [(finding.rule, finding.key, finding.severity) for finding in but_remote(lint(path, metadata, gpus=gpus))]


@pytest.mark.parametrize(
    ("text", "gpus", "framework"),
    [
        (CITYSCAPES_FCN, None, "mmseg"),
        (CITYSCAPES_FCN, 4, "mmseg"),
        (COCO_FPN, 8, "mmdet"),
        (COCO_FPN + COCO_C4_HEAD, 8, "mmdet"),
        (CITYSCAPES_FCN.replace("SyncBN", "MMSyncBN"), None, "mmseg"),
    ],
)
def test_what_is_right_is_clean(tmp_path: Path, text: str, gpus: int | None, framework: str) -> None:
    report = lint(python_config(tmp_path, text), MOCO, gpus=gpus)
    assert but_remote(report) == []
    assert report.framework == framework


@pytest.mark.parametrize(
    ("lines", "gpus", "rule", "key"),
    [
        (["data_preprocessor['bgr_to_rgb'] = False"], None, "channel-order", "model.data_preprocessor.bgr_to_rgb"),
        (["data_preprocessor['mean'] = [103.53, 116.28, 123.675]"], None, "mean", "model.data_preprocessor.mean"),
        (["del data_preprocessor['mean']"], None, "mean", "model.data_preprocessor.mean"),
        (["data_preprocessor['std'] = [0.229, 0.224, 0.225]"], None, "std", "model.data_preprocessor.std"),
        (["data_preprocessor['std'] = [1, 1, 1]"], None, "std", "model.data_preprocessor.std"),
        (["train_pipeline.append(dict(type='Normalize', mean=[1], std=[1]))"], None, "normalised-twice", None),
        ([f"{BACKBONE}['style'] = 'caffe'"], None, "stride-position", "model.backbone.style"),
        ([f"{BACKBONE}['frozen_stages'] = 0"], None, "frozen-stages", "model.backbone.frozen_stages"),
        ([f"{BACKBONE}['norm_eval'] = True"], None, "frozen-bn", "model.backbone.norm_eval"),
        (
            [f"{BACKBONE}['norm_cfg'] = dict(type='SyncBN', requires_grad=False)"],
            None,
            "frozen-bn",
            "model.backbone.norm_cfg.requires_grad",
        ),
        (["norm_cfg['type'] = 'BN'"], None, "norm-kind", "model.backbone.norm_cfg.type"),
        ([f"del {BACKBONE}['norm_cfg']"], None, "norm-kind", "model.backbone.norm_cfg"),
        ([f"{BACKBONE}['norm_cfg'] = dict(type='GN', num_groups=32)"], None, "norm-kind", "model.backbone.norm_cfg"),
        (["model['decode_head']['norm_cfg'] = dict(type='BN')"], None, "norm-kind", "model.decode_head.norm_cfg.type"),
        ([f"{BACKBONE}['type'] = 'ResNetV1c'"], None, "deep-stem", "model.backbone.type"),
        ([f"{BACKBONE}['type'] = 'mmseg.ResNetV1d'"], None, "deep-stem", "model.backbone.type"),
        ([f"{BACKBONE}['deep_stem'] = True"], None, "deep-stem", "model.backbone.deep_stem"),
        ([f"{BACKBONE}['avg_down'] = True"], None, "arch", "model.backbone.avg_down"),
        ([f"{BACKBONE}['type'] = 'ResNeXt'"], None, "arch", "model.backbone.type"),
        ([f"{BACKBONE}['type'] = 'SwinTransformer'"], None, "arch", "model.backbone.type"),
        ([f"{BACKBONE}['depth'] = 101"], None, "arch", "model.backbone.depth"),
        ([f"{BACKBONE}['base_channels'] = 128"], None, "arch", "model.backbone.base_channels"),
        (["model['auxiliary_head']['in_channels'] = 512"], None, "arch", "model.auxiliary_head.in_channels"),
        ([f"{BACKBONE}['init_cfg'] = None"], None, "weights-absent", "model.backbone.init_cfg"),
        ([f"{BACKBONE}['init_cfg'] = dict(type='Kaiming')"], None, "weights-absent", "model.backbone.init_cfg"),
        ([f"{BACKBONE}['init_cfg']['checkpoint'] = 'nowhere.pth'"], None, "weights-absent", "model.backbone.init_cfg"),
        (
            [f"{BACKBONE}['init_cfg']['checkpoint'] = 'torchvision://resnet50'"],
            None,
            "weights-other",
            "model.backbone.init_cfg",
        ),
        (["model['pretrained'] = 'open-mmlab://resnet50_v1c'"], None, "pretrained", "model.pretrained"),
        ([f"{BACKBONE}['pretrained'] = 'torchvision://resnet50'"], None, "pretrained", "model.backbone.pretrained"),
        (["load_from = 'moco.pth'"], None, "load-from", "load_from"),
        (["model['decode_head']['num_classes'] = 21"], None, "class-count", "model.decode_head.num_classes"),
        (
            [
                "train_dataloader['dataset'].update(metainfo=dict(classes=('a', 'b')))",
                "model['decode_head']['num_classes'] = 2",
            ],
            None,
            "class-count",
            "model.auxiliary_head.num_classes",
        ),
        (["optim_wrapper['optimizer']['lr'] = 0.1"], None, "learning-rate", "optim_wrapper.optimizer.lr"),
        (["train_cfg['max_iters'] = 20000"], 8, "schedule-end", "train_cfg.max_iters"),
        (
            ["val_dataloader['dataset']['data_prefix'] = train_dataloader['dataset']['data_prefix']"],
            None,
            "test-in-train",
            "val_dataloader.dataset",
        ),
        (
            ["test_pipeline[0]['color_type'] = 'grayscale'"],
            None,
            "train-test-input",
            "val_dataloader.dataset",
        ),
    ],
)
def test_a_trap_in_mmseg_is_named_alone(
    tmp_path: Path, lines: list[str], gpus: int | None, rule: str, key: str | None
) -> None:
    errors = [
        (rule, key)
        for rule, key, severity in found(python_config(tmp_path, CITYSCAPES_FCN, *lines), gpus=gpus)
        if severity == "error"
    ]
    if rule in ("normalised-twice", "schedule-end"):  # of other values, which have findings of their own
        assert rule in [one for one, _ in errors]
    else:
        assert errors == [(rule, key)]


@pytest.mark.parametrize(
    ("config", "lines", "gpus", "rule", "key"),
    [
        ("fpn", ["del model['neck']['norm_cfg']"], 8, "fpn-norm", "model.neck.norm_cfg"),
        # mmdet's ResNet has norm_eval=True where it is not said; mmseg's has not.
        ("fpn", [f"del {BACKBONE}['norm_eval']"], 8, "frozen-bn", "model.backbone.norm_eval"),
        (
            "fpn",
            ["model['roi_head']['mask_head']['num_classes'] = 81"],
            8,
            "class-count",
            "model.roi_head.mask_head.num_classes",
        ),
        ("fpn", ["model['neck']['in_channels'] = [64, 128, 256, 512]"], 8, "arch", "model.neck.in_channels"),
        # One GPU with two images: the linear rule says 0.02 x 2 / 16.
        ("fpn", ["norm_cfg['type'] = 'BN'"], 1, "learning-rate", "optim_wrapper.optimizer.lr"),
        ("fpn", ["optim_wrapper['optimizer']['lr'] = 0.01"], 8, "learning-rate", "optim_wrapper.optimizer.lr"),
        # MMSelfSup 1.x: a schedule of 24 epochs, and max_epochs=12 below it.
        ("fpn", ["param_scheduler[1].update(end=24, milestones=[16, 22])"], 8, "schedule-end", "train_cfg.max_epochs"),
        ("c4", [f"{SHARED_HEAD}['type'] = 'ResLayer'"], 8, "extra-norm", "model.roi_head.shared_head.type"),
        ("c4", [f"del {SHARED_HEAD}['init_cfg']"], 8, "shared-head-weights", "model.roi_head.shared_head.init_cfg"),
        ("c4", [f"del {SHARED_HEAD}['norm_eval']"], 8, "frozen-bn", "model.roi_head.shared_head.norm_eval"),
        ("c4", [f"{SHARED_HEAD}['style'] = 'caffe'"], 8, "stride-position", "model.roi_head.shared_head.style"),
        ("c4", [f"{SHARED_HEAD}['depth'] = 101"], 8, "arch", "model.roi_head.shared_head.depth"),
    ],
)
def test_a_trap_in_mmdet_is_named_alone(
    tmp_path: Path, config: str, lines: list[str], gpus: int, rule: str, key: str
) -> None:
    path = python_config(tmp_path, COCO_FPN + (COCO_C4_HEAD if config == "c4" else ""), *lines)
    assert [finding for finding in found(path, gpus=gpus) if finding[2] == "error"] == [(rule, key, "error")]


@pytest.mark.parametrize(
    ("lines", "gpus", "rule"),
    [
        ([f"{BACKBONE}['contract_dilation'] = False"], None, "contract-dilation"),
        (["model['decode_head']['align_corners'] = False"], None, "align-corners"),
        (["train_dataloader['dataset']['type'] = 'MyDataset'"], None, "class-count"),
        (["train_cfg['max_iters'] = 80000"], None, "schedule"),
        (["data_preprocessor = dict(mean=[0, 0, 0])"], None, "preprocessors-differ"),
    ],
)
def test_what_makes_another_number_is_a_warning(tmp_path: Path, lines: list[str], gpus: int | None, rule: str) -> None:
    report = lint(python_config(tmp_path, CITYSCAPES_FCN, *lines), MOCO, gpus=gpus)
    assert [(finding.rule, finding.severity) for finding in but_remote(report)] == [(rule, "warning")]
    assert all(finding.severity == "warning" for finding in but_remote(report))


def test_one_device_has_nothing_to_synchronise_in_any_part(tmp_path: Path) -> None:
    path = python_config(tmp_path, CITYSCAPES_FCN, "train_dataloader['batch_size'] = 8")
    (finding,) = but_remote(lint(path, MOCO, gpus=1))
    assert finding.rule == "sync-bn-one-device"
    assert {".".join(map(str, change.path)) for change in finding.changes} == {
        "model.backbone.norm_cfg.type",
        "model.decode_head.norm_cfg.type",
        "model.auxiliary_head.norm_cfg.type",
    }
    assert {change.value for change in finding.changes} == {"BN"}


def test_a_top_level_preprocessor_serves_a_model_without_one(tmp_path: Path) -> None:
    path = python_config(tmp_path, CITYSCAPES_FCN, "del model['data_preprocessor']")
    assert found(path) == []
    path = python_config(tmp_path, CITYSCAPES_FCN, "del model['data_preprocessor'], data_preprocessor['std']")
    assert found(path) == [("std", "data_preprocessor.std", "error")]


def test_a_correction_at_the_top_level_changes_nothing(tmp_path: Path) -> None:
    """MMSelfSup 1.x, faster-rcnn_r50-c4_ms-24k_voc0712.py: the model keeps caffe's BGR and std 1."""
    wrong = "dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)"
    right = "dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)"
    lines = (f"model['data_preprocessor'] = {wrong}", f"data_preprocessor = {right}")
    rules = [rule for rule, _, _ in found(python_config(tmp_path, COCO_FPN, *lines), gpus=8)]
    assert rules == ["channel-order", "mean", "std", "preprocessors-differ"]


def test_the_stock_model_has_what_peers_inherit_unseen(tmp_path: Path) -> None:
    """MMSelfSup 1.x takes mmseg's stock file: a deep stem, and another network's weights."""
    pytest.importorskip("mmseg")
    path = python_config(tmp_path, "_base_ = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py'\n")
    rules = [rule for rule, _, _ in found(path)]
    assert rules == ["deep-stem", "pretrained", "weights-absent"]


def test_weights_of_caffe2_need_caffes_style_and_bgr(tmp_path: Path) -> None:
    rules = [rule for rule, _, _ in found(python_config(tmp_path, CITYSCAPES_FCN), MSRA)]
    assert rules == ["channel-order", "mean", "std", "stride-position", "weights-other"]


def test_named_weights_are_known_by_their_fingerprint_and_a_raw_file_needs_its_prefix(tmp_path: Path) -> None:
    raw = checkpoints.write(tmp_path / "moco.pth.tar", checkpoints.moco("resnet18"))
    mine, other = families.read(raw), families.random_backbone("resnet18", 1)
    to_openmmlab.write_weights(mine, tmp_path / "mine.pth")
    to_openmmlab.write_weights(other, tmp_path / "other.pth")
    mine.save(tmp_path / "mine.safetensors")
    text = CITYSCAPES_FCN.replace("depth=50", "depth=18").replace("in_channels=2048", "in_channels=512")
    text = text.replace("in_channels=1024", "in_channels=256")

    def findings(name: str, *more: str) -> list[tuple[str, str]]:
        init = f"{BACKBONE}['init_cfg'] = dict(type='Pretrained', checkpoint={str(tmp_path / name)!r})"
        path = python_config(tmp_path, text, init, *more)
        return [(rule, key) for rule, key, _ in found(path, mine.metadata)]

    init = f"{BACKBONE}['init_cfg']"
    assert findings("mine.pth") == []
    assert findings("other.pth") == [("weights-other", "model.backbone.init_cfg")]
    assert findings("moco.pth.tar") == [("init-prefix", "model.backbone.init_cfg.prefix")]
    assert findings("moco.pth.tar", f"{init}['prefix'] = 'module.encoder_q'") == []
    assert findings("moco.pth.tar", f"{init}['prefix'] = 'module.encoder_q.'") == []
    assert findings("moco.pth.tar", f"{init}['prefix'] = 'module.encoder_k.'") == [
        ("init-prefix", "model.backbone.init_cfg.prefix")
    ]
    assert findings("mine.pth", f"{init}['prefix'] = 'backbone.'") == [
        ("init-prefix", "model.backbone.init_cfg.prefix")
    ]
    assert findings("mine.safetensors") == [("weights-names", "model.backbone.init_cfg")]
    pretrained = f"model['pretrained'] = {str(tmp_path / 'mine.pth')!r}"
    assert findings("mine.pth", pretrained) == [("pretrained", "model.pretrained")]  # an assertion error in mmseg
    assert findings("mine.pth", pretrained, f"{init} = None") == []  # the old way to say the same


@pytest.mark.parametrize("framework", ["mmseg", "mmdet"])
def test_our_fragment_over_a_stock_configuration_is_clean(tmp_path: Path, framework: to_openmmlab.Framework) -> None:
    pytest.importorskip(framework)
    stock = {
        "mmseg": "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py",
        "mmdet": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    }[framework]
    backbone = families.random_backbone("resnet50", 3)
    to_openmmlab.write_weights(backbone, tmp_path / "moco.pth")
    fragment = tmp_path / "moco.py"
    to_openmmlab.write_fragment(backbone.metadata, str(tmp_path / "moco.pth"), fragment, framework)
    fragment.write_text(f"_base_ = {stock!r}\n" + fragment.read_text(encoding="utf-8"), encoding="utf-8")
    rules = [rule for rule, _, _ in found(fragment, backbone.metadata)]
    # The fragment is the backbone's: the neck is the detector's own.
    assert rules == ([] if framework == "mmseg" else ["fpn-norm"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1", "model.backbone"),
        ("model = dict(backbone=dict(type='ResNet'), tracker=dict())", "mmseg, mmdet or mmpretrain"),
        ("from detectron2.config import LazyCall as L\nmodel = L(x)()", "--execute"),
    ],
)
def test_what_is_of_no_known_framework_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        lint(python_config(tmp_path, text), MOCO)


def test_a_linear_probe_of_mmpretrain_is_meant_to_be_frozen(tmp_path: Path) -> None:
    text = (
        "model = dict(type='ImageClassifier', data_preprocessor=dict(type='ClsDataPreprocessor', to_rgb=True,\n"
        "    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),\n"
        "    backbone=dict(type='ResNet', depth=50, frozen_stages=4, norm_eval=True, norm_cfg=dict(type='SyncBN'),\n"
        "        init_cfg=dict(type='Pretrained', checkpoint='https://x.org/moco_v2_200ep_pretrain.pth.tar',\n"
        "        prefix='module.encoder_q.')),\n"
        "    head=dict(type='LinearClsHead', num_classes=1000))\n"
        "train_dataloader = dict(batch_size=256, dataset=dict(type='ImageNet', split='train'))\n"
    )
    assert found(python_config(tmp_path, text)) == []
    two_stages = text.replace("frozen_stages=4", "frozen_stages=2").replace("num_classes=1000", "num_classes=999")
    assert [rule for rule, _, _ in found(python_config(tmp_path, two_stages))] == [
        "frozen-stages",
        "frozen-bn",
        "class-count",
    ]
