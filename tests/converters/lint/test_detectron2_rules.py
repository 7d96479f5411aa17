"""Each rule on a configuration that has its trap alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters import families, to_detectron2
from converters.lint import lint
from converters.lint.detectron2_defaults import DEFAULTS
from converters.metadata import BackboneMetadata
from tests import checkpoints
from tests.lint_configs import MOCO, MSRA, voc_yaml

FPN = (
    "MODEL.BACKBONE.NAME: build_resnet_fpn_backbone",
    "MODEL.ROI_HEADS.NAME: StandardROIHeads",
    "MODEL.FPN.NORM: SyncBN",
)
COCO = (
    "DATASETS.TRAIN: [coco_2017_train]",
    "DATASETS.TEST: [coco_2017_val]",
    "MODEL.ROI_HEADS.NUM_CLASSES: 80",
    "SOLVER.STEPS: [60000, 80000]",
    "SOLVER.MAX_ITER: 90000",
    "SOLVER.WARMUP_ITERS:",
)


def found(path: Path, metadata: BackboneMetadata = MOCO, gpus: int | None = None) -> list[tuple[str, str, str]]:
    """Rule, key and severity of each finding."""
    report = lint(path, metadata, gpus=gpus)
    return [(finding.rule, finding.key, finding.severity) for finding in report.findings]


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("MODEL.RESNETS.NORM: naiveSyncBN",),  # the reference's own choice
        FPN,
        COCO,
        (*COCO, "SOLVER.STEPS: [120000, 160000]", "SOLVER.MAX_ITER: 180000"),
        # The linear rule: half the images, half the rate, twice the iterations (moco#11).
        ("SOLVER.IMS_PER_BATCH: 8", "SOLVER.BASE_LR: 0.01", "SOLVER.STEPS: [36000, 44000]", "SOLVER.MAX_ITER: 48000"),
        ("DATASETS.TRAIN:", "DATASETS.TEST:", "SOLVER:"),  # a fragment leaves data and schedule to others
    ],
)
def test_what_is_right_is_clean(tmp_path: Path, settings: tuple[str, ...]) -> None:
    report = lint(voc_yaml(tmp_path, *settings), MOCO)
    assert report.findings == ()
    assert report.clean


def test_what_is_right_for_weights_of_caffe2_is_wrong_for_moco_and_the_other_way_round(tmp_path: Path) -> None:
    bgr = voc_yaml(
        tmp_path,
        "INPUT.FORMAT: BGR",
        "MODEL.PIXEL_MEAN: [103.53, 116.28, 123.675]",
        "MODEL.PIXEL_STD: [1.0, 1.0, 1.0]",
        "MODEL.RESNETS.STRIDE_IN_1X1: True",
    )
    four = ["channel-order", "mean", "std", "stride-position"]
    assert found(bgr, MSRA) == []
    assert [rule for rule, _, _ in found(bgr, MOCO)] == four
    assert [rule for rule, _, _ in found(voc_yaml(tmp_path), MSRA)] == four


@pytest.mark.parametrize(
    ("settings", "gpus", "rule", "key"),
    [
        (["INPUT.FORMAT: BGR"], None, "channel-order", "INPUT.FORMAT"),
        (["INPUT.FORMAT:"], None, "channel-order", "INPUT.FORMAT"),
        (["MODEL.PIXEL_MEAN: [103.53, 116.28, 123.675]"], None, "mean", "MODEL.PIXEL_MEAN"),
        (["MODEL.PIXEL_MEAN: [0.485, 0.456, 0.406]"], None, "mean", "MODEL.PIXEL_MEAN"),
        (["MODEL.PIXEL_MEAN: nonsense"], None, "mean", "MODEL.PIXEL_MEAN"),
        (["MODEL.PIXEL_STD: [1.0, 1.0, 1.0]"], None, "std", "MODEL.PIXEL_STD"),
        (["MODEL.PIXEL_STD: [0.229, 0.224, 0.225]"], None, "std", "MODEL.PIXEL_STD"),
        (["MODEL.RESNETS.STRIDE_IN_1X1:"], None, "stride-position", "MODEL.RESNETS.STRIDE_IN_1X1"),
        (["MODEL.BACKBONE.FREEZE_AT:"], None, "frozen-stages", "MODEL.BACKBONE.FREEZE_AT"),
        (["MODEL.RESNETS.NORM:"], None, "frozen-bn", "MODEL.RESNETS.NORM"),
        (["MODEL.RESNETS.NORM: BN"], None, "norm-kind", "MODEL.RESNETS.NORM"),
        (["MODEL.RESNETS.NORM: BN"], 8, "norm-kind", "MODEL.RESNETS.NORM"),
        (["MODEL.RESNETS.NORM: GN"], None, "norm-kind", "MODEL.RESNETS.NORM"),
        ([], 1, "sync-bn-one-device", "MODEL.RESNETS.NORM"),
        (["MODEL.RESNETS.NORM: naiveSyncBN"], 0, "sync-bn-one-device", "MODEL.RESNETS.NORM"),
        (["MODEL.ROI_HEADS.NAME: Res5ROIHeads"], None, "extra-norm", "MODEL.ROI_HEADS.NAME"),
        ([*FPN, "MODEL.FPN.NORM:"], None, "fpn-norm", "MODEL.FPN.NORM"),
        (["TEST.PRECISE_BN.ENABLED: False"], None, "precise-bn", "TEST.PRECISE_BN.ENABLED"),
        (["MODEL.RESNETS.STEM_TYPE: deeplab"], None, "deep-stem", "MODEL.RESNETS.STEM_TYPE"),
        (["MODEL.RESNETS.DEPTH: 101"], None, "arch", "MODEL.RESNETS.DEPTH"),
        (["MODEL.RESNETS.NUM_GROUPS: 32"], None, "arch", "MODEL.RESNETS.NUM_GROUPS"),
        (["MODEL.RESNETS.WIDTH_PER_GROUP: 8"], None, "arch", "MODEL.RESNETS.WIDTH_PER_GROUP"),
        (["MODEL.BACKBONE.NAME: build_mobilenet"], None, "arch", "MODEL.BACKBONE.NAME"),
        (['MODEL.WEIGHTS: ""'], None, "weights-absent", "MODEL.WEIGHTS"),
        (["MODEL.WEIGHTS: nowhere.pkl"], None, "weights-absent", "MODEL.WEIGHTS"),
        (["MODEL.WEIGHTS: detectron2://ImageNetPretrained/MSRA/R-50.pkl"], None, "weights-other", "MODEL.WEIGHTS"),
        (["MODEL.ROI_HEADS.NUM_CLASSES: 80"], None, "class-count", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ([*COCO, "MODEL.ROI_HEADS.NUM_CLASSES: 81"], None, "class-count", "MODEL.ROI_HEADS.NUM_CLASSES"),
        (["SOLVER.BASE_LR:"], None, "learning-rate", "SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR: 0.0025"], None, "learning-rate", "SOLVER.BASE_LR"),
        (["DATASETS.TEST: [voc_2012_trainval]"], None, "test-in-train", "DATASETS.TEST"),
    ],
)
def test_a_trap_is_named_alone(tmp_path: Path, settings: list[str], gpus: int | None, rule: str, key: str) -> None:
    assert found(voc_yaml(tmp_path, *settings), gpus=gpus) == [(rule, key, "error")]


@pytest.mark.parametrize(
    ("settings", "gpus", "rule", "key"),
    [
        (["SOLVER.WARMUP_ITERS:"], None, "warmup", "SOLVER.WARMUP_ITERS"),
        (["SOLVER.IMS_PER_BATCH: 8", "SOLVER.BASE_LR: 0.01"], None, "schedule", "SOLVER.MAX_ITER"),
        (["SOLVER.STEPS: [30000, 35000]", "SOLVER.MAX_ITER: 40000"], None, "schedule", "SOLVER.MAX_ITER"),
        (["DATASETS.TRAIN: [my_birds_train]"], None, "class-count", "MODEL.ROI_HEADS.NUM_CLASSES"),
        (
            [
                "MODEL.RESNETS.NORM: BN",
                "SOLVER.IMS_PER_BATCH: 2",
                "SOLVER.BASE_LR: 0.0025",
                "SOLVER.STEPS: [144000, 176000]",
                "SOLVER.MAX_ITER: 192000",
                "SOLVER.WARMUP_ITERS: 800",
            ],
            1,
            "norm-kind",
            "MODEL.RESNETS.NORM",
        ),
    ],
)
def test_what_makes_another_number_is_a_warning(
    tmp_path: Path, settings: list[str], gpus: int | None, rule: str, key: str
) -> None:
    path = voc_yaml(tmp_path, *settings)
    assert found(path, gpus=gpus) == [(rule, key, "warning")]
    assert lint(path, MOCO, gpus=gpus).clean


def test_steps_behind_the_end_never_happen(tmp_path: Path) -> None:
    path = voc_yaml(tmp_path, "SOLVER.STEPS: [18000, 30000]")
    assert ("schedule-end", "SOLVER.STEPS", "error") in found(path)


def test_the_reason_says_what_the_numbers_are(tmp_path: Path) -> None:
    def why(setting: str) -> str:
        (finding,) = lint(voc_yaml(tmp_path, setting), MOCO).findings
        return finding.why

    assert "wrong order" in why("MODEL.PIXEL_MEAN: [103.53, 116.28, 123.675]")
    assert "scale 0-1" in why("MODEL.PIXEL_STD: [0.229, 0.224, 0.225]")
    assert "folded" in why("MODEL.PIXEL_STD: [1, 1, 1]")


def test_detectron2s_own_defaults_have_every_trap_of_a_c4_detector(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("VERSION: 2\n", encoding="utf-8")
    rules = {rule for rule, _, _ in found(path)}
    assert rules == {
        *("channel-order", "mean", "std", "stride-position", "frozen-stages", "frozen-bn", "extra-norm"),
        *("precise-bn", "weights-absent"),
    }


def test_the_names_of_the_extra_norm_and_of_absent_weights_are_notes(tmp_path: Path) -> None:
    notes = lint(voc_yaml(tmp_path), MOCO).notes
    assert any("import evaluators.detection.heads" in note for note in notes)
    assert any("MODEL.WEIGHTS" in note for note in notes)


def test_a_resnet18_needs_its_widths_and_an_fpn(tmp_path: Path) -> None:
    small = MOCO.model_copy(update={"arch": "resnet18"})
    keys = {key for rule, key, _ in found(voc_yaml(tmp_path), small) if rule == "arch"}
    assert keys == {"MODEL.RESNETS.DEPTH", "MODEL.RESNETS.RES2_OUT_CHANNELS", "MODEL.BACKBONE.NAME"}
    right = voc_yaml(tmp_path, *FPN, "MODEL.RESNETS.DEPTH: 18", "MODEL.RESNETS.RES2_OUT_CHANNELS: 64")
    assert found(right, small) == []


def test_named_weights_are_known_by_their_fingerprint(tmp_path: Path) -> None:
    raw = checkpoints.write(tmp_path / "moco.pth.tar", checkpoints.moco("resnet18"))
    mine, other = families.read(raw), families.random_backbone("resnet18", 1)
    to_detectron2.write_weights(mine, tmp_path / "mine.pkl")
    to_detectron2.write_weights(other, tmp_path / "other.pkl")
    mine.save(tmp_path / "mine.safetensors")

    def rules(weights: Path) -> list[str]:
        path = voc_yaml(
            tmp_path,
            *FPN,
            "MODEL.RESNETS.DEPTH: 18",
            "MODEL.RESNETS.RES2_OUT_CHANNELS: 64",
            f"MODEL.WEIGHTS: {weights}",
        )
        return [rule for rule, _, _ in found(path, mine.metadata)]

    assert rules(tmp_path / "mine.pkl") == []
    assert rules(tmp_path / "other.pkl") == ["weights-other"]
    # detectron2 matches bare names for .pkl alone: the very file that holds these weights would load nothing.
    assert rules(raw) == ["weights-names"]
    assert rules(tmp_path / "mine.safetensors") == ["weights-names"]
    # A path relative to the working directory is what detectron2 would take.
    assert rules(Path("mine.pkl")) == []
    torch.save({}, tmp_path / "empty.pkl")
    assert rules(tmp_path / "empty.pkl") == ["weights-other"]


def test_our_fragment_over_a_stock_configuration_is_clean(tmp_path: Path) -> None:
    stock = tmp_path / "stock.yaml"
    stock.write_text(
        "MODEL:\n  WEIGHTS: detectron2://ImageNetPretrained/MSRA/R-50.pkl\n  MASK_ON: True\n"
        "DATASETS:\n  TRAIN: ('coco_2017_train',)\n  TEST: ('coco_2017_val',)\n"
        "SOLVER:\n  IMS_PER_BATCH: 16\n  BASE_LR: 0.02\n  STEPS: (60000, 80000)\n  MAX_ITER: 90000\nVERSION: 2\n",
        encoding="utf-8",
    )
    backbone = families.random_backbone("resnet18", 3)
    to_detectron2.write_weights(backbone, tmp_path / "moco.pkl")
    fragment = tmp_path / "moco.yaml"
    to_detectron2.write_fragment(backbone.metadata, "moco.pkl", fragment)
    fragment.write_text(f"_BASE_: {stock.name}\n" + fragment.read_text(encoding="utf-8"), encoding="utf-8")
    report = lint(fragment, backbone.metadata)
    assert report.findings == ()
    assert any("working directory" in note for note in report.notes)


def test_the_defaults_are_detectron2s() -> None:
    pytest.importorskip("detectron2")
    from converters import detectron2_compat

    detectron2_compat.prepare()
    from detectron2.config import get_cfg

    for key, value in DEFAULTS.items():
        node = get_cfg()
        for step in key.split("."):
            node = node[step]
        assert node == value, key
