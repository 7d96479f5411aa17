"""What each target's files are to those who use them without this toolkit, and the way from any target to any other."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from converters import architectures, families, keymap, parity, to_openmmlab, to_timm, to_torchvision
from converters.backbone import Backbone
from converters.certificate import Target
from converters.errors import UserError
from converters.metadata import BackboneMetadata, Origin, Preprocess, parse_header
from converters.targets import TARGETS
from tests import checkpoints
from transfer.commands import convert as command


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """With all that a header can say."""
    tensors = {name: value for name, value in checkpoints.encoder().items() if not name.startswith("fc.")}
    origin = Origin(
        file="ü.pth",
        sha256="ab" * 32,
        family="moco",
        container="state_dict",
        prefix="module.encoder_k.",
        encoder="k",
        method="MoCo v2",
        epochs=200,
        pretrain_seed=3,
        recipe="moco-v2@1 (epochs)",
        pretrain_data="cd" * 32,
        dropped={"queue": 2},
        filled={"batch counter 0": 20},
    )
    preprocess = Preprocess(channel_order="BGR", mean=(0.1, 0.2, 1 / 3), std=(0.7, 0.8, 0.9), value_range=(-1.0, 1.0))
    return Backbone("resnet18", tensors, origin, preprocess)


def test_the_table_and_the_command_have_every_target() -> None:
    assert tuple(TARGETS) == typing.get_args(Target) == command.TARGETS


CONTAINERS: dict[str, tuple[Target, ...]] = {
    "safetensors": ("backbone", "timm"),
    "pth of torchvision": ("torchvision",),
    "pth of OpenMMLab": ("mmseg", "mmdet", "mmpretrain"),
    "pkl of detectron2": ("detectron2",),
}
"""Targets with one writer and one reader: the way from one to another is the way between any of each."""


def test_targets_of_one_container_are_written_and_read_alike() -> None:
    assert sorted(target for targets in CONTAINERS.values() for target in targets) == sorted(TARGETS)
    for targets in CONTAINERS.values():
        assert len({(TARGETS[target].write_weights, TARGETS[target].read_weights) for target in targets}) == 1


@pytest.mark.parametrize("first", CONTAINERS)
def test_from_any_target_to_any_other_nothing_changes(backbone: Backbone, tmp_path: Path, first: str) -> None:
    rules = TARGETS[CONTAINERS[first][0]]
    path = tmp_path / f"first{rules.suffix}"
    rules.write_weights(backbone, path)
    once = families.read(path)
    for second, *_ in CONTAINERS.values():
        rules = TARGETS[second]
        path = tmp_path / f"second{rules.suffix}"
        rules.write_weights(once, path)
        twice = rules.read_weights(path)
        assert twice.metadata == backbone.metadata
        assert twice.tensors.keys() == backbone.tensors.keys()
        assert all(torch.equal(twice.tensors[name], value) for name, value in backbone.tensors.items())
        path.unlink()


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.dictionaries(TEXT, st.integers(0))
ORIGINS = st.builds(
    Origin,
    **dict.fromkeys(("file", "sha256", "family", "container", "prefix", "method", "recipe", "pretrain_data"), TEXT),
    encoder=st.sampled_from(["", "q", "k"]),
    epochs=st.none() | st.integers(),
    dropped=COUNTS,
    filled=COUNTS,
)
PREPROCESSES = st.builds(
    Preprocess,
    channel_order=st.sampled_from(["RGB", "BGR"]),
    mean=st.tuples(NUMBERS, NUMBERS, NUMBERS),
    std=st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    value_range=st.tuples(st.floats(-256, 0), st.floats(1, 256)),
)


@given(origin=ORIGINS, preprocess=PREPROCESSES, stride=st.booleans())
def test_any_header_survives_as_strings(origin: Origin, preprocess: Preprocess, stride: bool) -> None:
    """All containers hold it in this form."""
    metadata = BackboneMetadata(
        arch="resnet50", fingerprint="0" * 64, stride_in_1x1=stride, preprocess=preprocess, origin=origin
    )
    assert parse_header(metadata.to_header(), Path("x")) == metadata


def test_torchvisions_resnet_takes_the_file_and_lacks_fc_alone(backbone: Backbone, tmp_path: Path) -> None:
    to_torchvision.write_weights(backbone, tmp_path / "b.pth")
    state = torch.load(tmp_path / "b.pth")
    model = torchvision.models.resnet18()
    found = model.load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in backbone.tensors.items())


def test_timm_takes_a_backbone_file_as_it_is(backbone: Backbone, tmp_path: Path) -> None:
    import timm

    backbone.save(tmp_path / "b.safetensors")
    model = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "b.safetensors"))
    state = model.state_dict()
    assert state.keys() == backbone.tensors.keys()
    assert all(torch.equal(state[name], value) for name, value in backbone.tensors.items())


def test_what_a_framework_cannot_build_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"--to timm: .* resnet50w2x: the first convolution of its ResNet has 64"):
        to_timm.resnet(architectures.architecture("resnet50w2x"))
    with pytest.raises(UserError, match=r"--to torchvision: .* resnet50w4x: its ResNet has no option for the width"):
        to_torchvision.resnet(architectures.architecture("resnet50w4x"))


STOCK = {
    # As mmdetection's configs/_base_/models/retinanet_r50_fpn.py and mmpretrain's resnet18 with a frozen backbone.
    "mmdet": "model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=50, num_stages=4,"
    " out_indices=(0, 1, 2, 3), frozen_stages=1, norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True,"
    " style='caffe', init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),"
    " data_preprocessor=dict(type='DetDataPreprocessor', mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=False))",
    "mmpretrain": "model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=50, num_stages=4,"
    " out_indices=(3,), frozen_stages=4, style='caffe', norm_eval=True))\n"
    "data_preprocessor = dict(num_classes=1000, mean=[0, 0, 0], std=[1, 1, 1], to_rgb=False)",
}


@pytest.mark.parametrize("framework", STOCK)
def test_the_fragment_turns_a_stock_model_into_one_that_trains_all_weights(
    backbone: Backbone, tmp_path: Path, framework: to_openmmlab.Framework
) -> None:
    from converters import mmdet_model, mmpretrain_model

    to_openmmlab.write_weights(backbone, tmp_path / "b.pth")
    to_openmmlab.write_fragment(backbone.metadata, "b.pth", tmp_path / "b.py", framework)
    (tmp_path / "stock.py").write_text(STOCK[framework])
    mine = tmp_path / "mine.py"
    mine.write_text("_base_ = ['stock.py']\n" + (tmp_path / "b.py").read_text())
    build: Any = {"mmdet": mmdet_model.build, "mmpretrain": mmpretrain_model.build}[framework]
    model = build(mine, tmp_path / "b.pth", "resnet18")
    live = parity.identical(backbone, model.backbone.state_dict())
    assert live == backbone.tensors.keys()
    model.train()
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert len(norms) == 20
    assert all(norm.training for norm in norms)


def test_mmdets_c4_head_takes_res5_from_the_file(tmp_path: Path) -> None:
    """As the fragment's comment says: the same init_cfg on roi_head.shared_head."""
    from mmengine.registry import DefaultScope

    from converters import mmdet_model

    resnet50 = families.random_backbone("resnet50", 0)
    to_openmmlab.write_weights(resnet50, tmp_path / "b.pth")
    settings = {
        "type": "ResLayer",
        "depth": 50,
        "stage": 3,
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "norm_eval": False,
        "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "b.pth")},
    }
    with parity.quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        head = mmdet_model.MODELS.build(settings)
        head.init_weights()
    res5 = {name for name in resnet50.tensors if keymap.stage_of(name) == "res5"}
    assert len(res5) == 60
    assert parity.identical(resnet50, head.state_dict()) == res5
