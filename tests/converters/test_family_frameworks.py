"""Detectors, segmentors and Caffe2 files: names, input settings, and what a file says of itself or leaves open."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from converters import families
from converters.architectures import ARCHITECTURES, expected_shapes
from converters.errors import UserError
from converters.families import Reading, naming
from converters.families.layout import Naming
from converters.fingerprint import fingerprint
from converters.metadata import Preprocess
from tests import checkpoints
from tests.layouts import State, body, linear, norm, numpy_state, under
from tests.reference.detectron2_renames import renamed

Q = body(1)
R50 = body(3, "resnet50")
MSRA = Preprocess(channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1, 1, 1), value_range=(0, 255))
FAIR = Preprocess(
    channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), value_range=(0, 255)
)


def pickled(path: Path, content: object, protocol: int = 2) -> Path:
    """As detectron2's and Caffe2's own scripts write: NumPy's arrays by NumPy's own pickle."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def in_detectron2(state: State) -> State:
    return {renamed(name): value for name, value in state.items()}


def without_counters(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("author", ["MOCO", "torchvision", "Yonglong"])
def test_a_pickle_of_a_known_author_is_rgb_and_the_reference_converters_junk_is_dropped(
    tmp_path: Path, author: str
) -> None:
    model = numpy_state(in_detectron2(Q) | linear("stem.fc.0", "stem.fc.2"))
    path = pickled(tmp_path / "x.pkl", {"model": model, "__author__": author, "matching_heuristics": True})
    backbone = families.read(path)
    assert backbone.fingerprint == fingerprint(Q)
    origin = backbone.origin
    assert (origin.family, origin.container, origin.prefix) == ("detectron2-rgb", "model", "")
    assert origin.dropped == {"projection head": 4}
    assert (backbone.preprocess, backbone.stride_in_1x1) == (Preprocess(), False)


def test_bare_names_of_an_unknown_source_are_ambiguous_and_a_family_decides(tmp_path: Path) -> None:
    model = numpy_state(in_detectron2(without_counters(R50)))
    path = pickled(tmp_path / "x.pkl", {"model": model, "__author__": "somebody"})
    with pytest.raises(UserError) as caught:
        families.read(path)
    assert str(caught.value) == (
        f"{path}: expected one reading, found several: detectron2-rgb (RGB from 0 to 1, stride in the 3x3), "
        "detectron2-bgr (BGR from 0 to 255, ResNets with std 1 and the stride in the 1x1); choose with --family"
    )
    rgb, bgr = (families.read(path, Reading(family=f"detectron2-{order}")) for order in ("rgb", "bgr"))
    assert rgb.fingerprint == bgr.fingerprint == fingerprint(R50)
    assert (rgb.preprocess, rgb.stride_in_1x1) == (Preprocess(), False)
    assert (bgr.preprocess, bgr.stride_in_1x1) == (MSRA, True)
    assert rgb.origin.filled == {"batch counter 0": 53}  # frozen batch norm has none


def _fpn_detector(state: State) -> State:
    model = under("backbone.bottom_up.", in_detectron2(without_counters(state)))
    heads = [f"backbone.fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)]
    heads += ["proposal_generator.rpn_head.conv", "proposal_generator.rpn_head.objectness_logits"]
    heads += ["proposal_generator.rpn_head.anchor_deltas", "roi_heads.box_head.fc1", "roi_heads.box_head.fc2"]
    heads += ["roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred", "roi_heads.mask_head.predictor"]
    return model | linear(*heads)


def _c4_detector(state: State) -> State:
    model = {}
    for name, value in in_detectron2(state).items():
        model[("roi_heads." if name.startswith("res5.") else "backbone.") + name] = value
    return model | norm("roi_heads.res5.norm") | linear("proposal_generator.rpn_head.conv", "roi_heads.box_predictor.x")


def test_a_trained_fpn_detector_gives_its_backbone_once_its_input_is_known(tmp_path: Path) -> None:
    content = {"model": _fpn_detector(Q), "optimizer": {}, "scheduler": {}, "iteration": 89999}
    path = checkpoints.write(tmp_path / "model_final.pth", content)
    with pytest.raises(UserError, match=r"several: detectron2-rgb \(.*, detectron2-bgr \(.*choose with --family"):
        families.read(path)
    backbone = families.read(path, Reading(family="detectron2-bgr"))
    assert backbone.fingerprint == fingerprint(Q)
    assert backbone.origin.prefix == "backbone.bottom_up."
    assert backbone.origin.dropped == {"FPN": 16, "detector head": 16}


def test_a_c4_detector_has_res5_in_its_head_and_an_extra_norm(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "model_final.pth", {"model": _c4_detector(Q)})
    backbone = families.read(path, Reading(family="detectron2-rgb"))
    assert backbone.fingerprint == fingerprint(Q)
    assert backbone.origin.dropped == {"detector head": 4, "extra norm": 5}
    assert backbone.origin.filled == {}


@pytest.mark.parametrize(
    ("mean", "std", "family", "expected"),
    [
        ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "detectron2-bgr", MSRA),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "detectron2-rgb", Preprocess()),
    ],
)
def test_a_detectors_own_pixel_mean_decides(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], family: str, expected: Preprocess
) -> None:
    """detectron2 saved it until 3c0509e6 (2021-02, before 0.4), in detectron2/modeling/meta_arch/rcnn.py."""
    model = _fpn_detector(Q) | {
        "pixel_mean": torch.tensor(mean).view(3, 1, 1),
        "pixel_std": torch.tensor(std).view(3, 1, 1),
    }
    backbone = families.read(checkpoints.write(tmp_path / "m.pth", {"model": model}))
    assert (backbone.origin.family, backbone.preprocess) == (family, expected)
    assert backbone.origin.dropped["input normalisation"] == 2


# --- Caffe2


def caffe2_name(name: str, *, statistics: bool = False) -> str:
    """The names of a Caffe2 ResNet, the naive way."""
    words = {"weight": "s", "bias": "b"}
    if statistics:
        words = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
    for layer, stage in (("layer1", "res2"), ("layer2", "res3"), ("layer3", "res4"), ("layer4", "res5")):
        name = name.replace(f"{layer}.", f"{stage}_").replace(".downsample.0.", "_branch1.")
        name = name.replace(".downsample.1.", "_branch1_bn.")
    for number, letter in (("1", "a"), ("2", "b"), ("3", "c")):
        name = name.replace(f".conv{number}.", f"_branch2{letter}.").replace(f".bn{number}.", f"_branch2{letter}_bn.")
    name = name.replace("bn1.", "res_conv1_bn.") if name.startswith("bn1.") else name
    module, tensor = name.rsplit(".", 1)
    return f"{module}_{words[tensor]}" if module.endswith("_bn") else f"{module}_w"


def caffe2(state: State, **options: bool) -> dict[str, np.ndarray[Any, Any]]:
    kept = without_counters(state)
    if not options:
        kept = {name: value for name, value in kept.items() if "running_" not in name}
    return {caffe2_name(name, **options): value.numpy() for name, value in kept.items()}


def test_the_caffe2_names_are_those_that_detectron2_maps_to_its_own() -> None:
    from converters import detectron2_compat

    detectron2_compat.prepare()
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    source = {"caffe2": caffe2(R50), "caffe2 statistics": caffe2(R50, statistics=True)}
    assert [len(blobs) for blobs in source.values()] == [159, 265]
    for name, blobs in source.items():
        _, theirs = convert_c2_detectron_names({key: torch.from_numpy(value) for key, value in blobs.items()})
        ours = naming.inverse(name)  # type: ignore[arg-type]
        # Theirs: detectron2's name -> Caffe2's.
        assert {c2: renamed(ours[c2]) for c2 in blobs} == {c2: d2 for d2, c2 in theirs.items()}


def test_a_caffe2_file_is_an_exact_affine_map_in_bgr_with_its_stride_in_the_1x1(tmp_path: Path) -> None:
    blobs = caffe2(R50)
    junk = {"conv1_b": np.zeros(64, np.float32), "fc1000_w": np.zeros((3, 4), np.float32)}
    junk |= {"fc1000_b": np.zeros(3, np.float32), "conv1_w_momentum": np.zeros((64, 3, 7, 7), np.float32)}
    junk |= {"lr": np.zeros(1, np.float32), "iter": np.zeros(1, np.int64)}
    backbone = families.read(pickled(tmp_path / "R-50.pkl", blobs | junk))
    assert backbone.origin.family == "caffe2"
    assert backbone.origin.dropped == {"bias of the stem": 1, "classifier": 2, "momentum": 1, "training state": 2}
    assert backbone.origin.filled == {"batch counter 0": 53, "running mean 0": 53, "running variance 1 - 1e-05": 53}
    assert (backbone.preprocess, backbone.stride_in_1x1, backbone.arch) == (MSRA, True, "resnet50")
    for name, value in R50.items():
        if "running_" not in name and not name.endswith("num_batches_tracked"):
            assert torch.equal(backbone.tensors[name], value), name


def test_the_filled_statistics_make_batch_norm_the_frozen_one_of_detectron2(tmp_path: Path) -> None:
    from converters import detectron2_compat

    detectron2_compat.prepare()
    from detectron2.layers.batch_norm import FrozenBatchNorm2d

    backbone = families.read(pickled(tmp_path / "R-18.pkl", caffe2(Q)))
    values = torch.randn(4, 64, 5, 5) * 30
    scale, shift, mean, variance = (
        backbone.tensors[f"bn1.{word}"] for word in ("weight", "bias", "running_mean", "running_var")
    )
    frozen = FrozenBatchNorm2d(64)
    frozen.weight.copy_(scale)
    frozen.bias.copy_(shift)
    assert torch.equal(frozen.running_var, variance)
    assert torch.equal(frozen.running_mean, mean)
    ours = F.batch_norm(values, mean, variance, scale, shift, training=False, eps=1e-5)
    affine = values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    # Of the same exact affine map: they differ in the order of one multiplication and one addition.
    assert torch.allclose(ours, affine, rtol=0, atol=1e-5)
    assert torch.allclose(ours, frozen(values), rtol=0, atol=1e-5)
    assert torch.equal((variance + 1e-5).rsqrt(), torch.ones(64))


def test_a_caffe2_file_with_statistics_keeps_them(tmp_path: Path) -> None:
    content = {"model": caffe2(Q, statistics=True), "__author__": "Caffe2", "matching_heuristics": True}
    backbone = families.read(pickled(tmp_path / "R-18.pkl", content))
    assert backbone.fingerprint == fingerprint(Q)
    assert backbone.origin.filled == {"batch counter 0": 20}
    assert (backbone.preprocess, backbone.stride_in_1x1) == (MSRA, False)  # basic blocks have no 1x1 convolution


def test_the_blobs_of_a_caffe2_detector_and_of_python_2_are_read(tmp_path: Path) -> None:
    blobs = caffe2(Q) | {
        name: np.zeros(2, np.float32)
        for name in ("fpn_inner_res5_2_sum_w", "conv_rpn_fpn2_w", "rpn_bbox_pred_fpn2_b", "fc6_w", "cls_score_b")
    }
    backbone = families.read(pickled(tmp_path / "m.pkl", {"blobs": blobs, "cfg": "MODEL: {}"}))
    assert backbone.origin.dropped == {"detector head": 5}


def test_a_resnext_of_caffe2_has_another_std_and_its_stride_in_the_3x3(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = expected_shapes("resnext50_32x4d")
    state = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    backbone = families.read(pickled(tmp_path / "X.pkl", caffe2(state)))
    assert (backbone.arch, backbone.preprocess, backbone.stride_in_1x1) == ("resnext50_32x4d", FAIR, False)


# --- OpenMMLab


def _mmdet(state: State) -> State:
    heads = ["neck.lateral_convs.0.conv", "neck.fpn_convs.0.conv", "rpn_head.rpn_conv", "roi_head.bbox_head.fc_cls"]
    return under("backbone.", state) | linear(*heads)


CONFIG = """
model = dict(
    data_preprocessor=dict(bgr_to_rgb={order}, mean=[1, 2, 3]),
    backbone=dict(type='ResNet', depth=18, style='{style}'))
import os; os.abort()
"""


def test_a_trained_detector_of_openmmlab_is_ambiguous_but_for_its_own_configuration(tmp_path: Path) -> None:
    state = _mmdet(R50)
    bare = checkpoints.write(tmp_path / "bare.pth", {"meta": {}, "state_dict": state})
    with pytest.raises(UserError, match=r"several: openmmlab-rgb \(.*, openmmlab-bgr \(.*choose with --family"):
        families.read(bare)
    assert families.read(bare, Reading(family="openmmlab-bgr")).preprocess == MSRA
    for order, style, expected in ((True, "pytorch", Preprocess()), (False, "caffe", MSRA)):
        meta = {"cfg": CONFIG.format(order=order, style=style), "epoch": 12}
        backbone = families.read(checkpoints.write(tmp_path / f"{style}.pth", {"meta": meta, "state_dict": state}))
        assert (backbone.preprocess, backbone.stride_in_1x1) == (expected, style == "caffe")
        assert backbone.fingerprint == fingerprint(R50)
        assert backbone.origin.dropped == {"FPN": 4, "detector head": 4}
        declared = families.read(tmp_path / f"{style}.pth", Reading(prefix="backbone."))
        assert (declared.preprocess, declared.stride_in_1x1) == (expected, style == "caffe")
    mixed = {"cfg": CONFIG.format(order=True, style="caffe")}
    with pytest.raises(UserError, match="choose with --family"):
        families.read(checkpoints.write(tmp_path / "mixed.pth", {"meta": mixed, "state_dict": state}))


def test_a_segmentor_and_a_c4_detector_of_openmmlab(tmp_path: Path) -> None:
    segmentor = under("backbone.", Q) | linear("decode_head.conv_seg", "auxiliary_head.conv_seg")
    how = Reading(family="openmmlab-rgb")
    backbone = families.read(checkpoints.write(tmp_path / "s.pth", {"state_dict": segmentor}), how)
    assert (backbone.fingerprint, backbone.origin.dropped) == (fingerprint(Q), {"segmentation head": 4})
    c4 = {("roi_head.shared_head." if n.startswith("layer4.") else "backbone.") + n: v for n, v in Q.items()}
    c4 |= linear("rpn_head.rpn_conv", "roi_head.bbox_head.fc_cls") | norm("roi_head.shared_head.norm")
    backbone = families.read(checkpoints.write(tmp_path / "c4.pth", {"state_dict": c4}), how)
    assert (backbone.fingerprint, backbone.origin.dropped) == (fingerprint(Q), {"detector head": 4, "extra norm": 5})


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
@pytest.mark.parametrize("name", naming.NAMINGS)
def test_every_reading_map_is_total_injective_and_invertible(arch: str, name: Naming) -> None:
    table = naming.table(name, arch)
    shapes = expected_shapes(arch)
    assert table.names.keys() == shapes.keys()
    assert len(set(table.names.values())) == len(shapes)
    assert table.restore(table.rename(shapes)) == shapes
    assert naming.inverse(name).items() >= table.inverse.items()
