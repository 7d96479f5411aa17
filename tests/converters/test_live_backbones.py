"""Live backbones of detectron2 and mmsegmentation: the weights are in, and all of them can be trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from converters import families, keymap
from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from tests.reference.detectron2_renames import renamed


@pytest.fixture(scope="module")
def resnet50() -> Backbone:
    return families.random_backbone("resnet50", 0)


@pytest.mark.parametrize(
    ("kind", "outputs", "tensors"),
    [
        ("C4", {"res4": (1024, 16)}, 258),
        ("FPN", {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16), "res5": (2048, 32)}, 318),
    ],
)
def test_detectron2_gets_a_backbone_with_the_weights_in(
    resnet50: Backbone, kind: Any, outputs: dict[str, tuple[int, int]], tensors: int
) -> None:
    from converters import detectron2_model

    live = detectron2_model.live_backbone(resnet50, kind)
    shapes = live.output_shape()
    assert {type(shape).__name__ for shape in shapes.values()} == {"ShapeSpec"}
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == outputs
    state = live.state_dict()
    assert len(state) == tensors
    theirs = {renamed(name): value for name, value in resnet50.tensors.items()}
    assert all(torch.equal(value, theirs[name]) for name, value in state.items())
    assert live.training
    assert all(parameter.requires_grad for parameter in live.parameters())
    norms = {type(module).__name__ for name, module in live.named_modules() if name.endswith("norm")}
    assert norms == {"SyncBatchNorm"}


def test_a_live_backbone_trains_on_a_cpu_with_plain_bn() -> None:
    from converters import detectron2_model, mmseg_model

    resnet18 = families.random_backbone("resnet18", 0)
    images = torch.randn(2, 3, 64, 64)
    in_detectron2: Any = detectron2_model.live_backbone(resnet18, "FPN", norm="BN")
    in_mmseg: Any = mmseg_model.live_backbone(resnet18, norm="BN")
    reference = resnet18.module().train()
    with torch.no_grad():
        features = reference(images)
    for live, res5 in ((in_detectron2, lambda x: x["res5"]), (in_mmseg, lambda x: x[-1])):
        output = res5(live(images))
        torch.testing.assert_close(output.mean((2, 3)), features)
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in live.parameters())


def test_a_frozen_norm_holds_no_batch_counters(resnet50: Backbone) -> None:
    from converters import detectron2_model

    assert len(detectron2_model.live_backbone(resnet50, "FPN", norm="FrozenBN").state_dict()) == 265


def test_mmseg_gets_a_backbone_with_the_weights_and_the_options_asked_for(resnet50: Backbone) -> None:
    from converters import mmseg_model

    live: Any = mmseg_model.live_backbone(resnet50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    state = live.state_dict()
    assert state.keys() == resnet50.tensors.keys()
    assert all(torch.equal(value, resnet50.tensors[name]) for name, value in state.items())
    assert isinstance(live.bn1, torch.nn.SyncBatchNorm)
    assert live.training
    assert live.layer4[2].bn3.training
    assert all(parameter.requires_grad for parameter in live.parameters())
    live = mmseg_model.live_backbone(resnet50, norm="BN", strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    assert [tuple(output.shape[2:]) for output in live(torch.randn(2, 3, 64, 64))] == [(16, 16)] + [(8, 8)] * 3


def test_strides_of_caffe_are_kept(resnet50: Backbone) -> None:
    from converters import detectron2_model, mmseg_model

    caffe = dataclasses.replace(resnet50, stride_in_1x1=True)
    first = detectron2_model.live_backbone(caffe, "FPN").res3[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    first = mmseg_model.live_backbone(caffe).get_submodule("layer2.0")
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"style": "caffe"},
            r"expected stride_in_1x1 False in the live mmseg backbone, found the strides .* in layer2",
        ),
        ({"depth": 101}, "318 tensors of resnet50 in the live mmseg backbone, found 306 others, as layer3.10.bn1.bias"),
        ({"deep_stem": True}, "found no such place for 5, as conv1.weight"),
        ({"base_channels": 128}, "found no such place for"),
    ],
)
def test_an_option_that_makes_another_network_is_refused(
    resnet50: Backbone, overrides: dict[str, Any], message: str
) -> None:
    from converters import mmseg_model

    with pytest.raises(CheckFailed, match=message):
        mmseg_model.live_backbone(resnet50, **overrides)


def test_a_wrong_table_is_seen_by_the_values(resnet50: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader of the framework puts the values elsewhere."""
    from converters import detectron2_model

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    with pytest.raises(
        CheckFailed, match=r"258 tensors of resnet50 in the live detectron2 backbone, found .* other val"
    ):
        detectron2_model.live_backbone(resnet50, "C4")


def test_c4_needs_bottlenecks() -> None:
    from converters import detectron2_model

    with pytest.raises(UserError, match="use --head fpn"):
        detectron2_model.live_backbone(families.random_backbone("resnet18", 0), "C4")


def test_the_tensors_that_c4_leaves_out_have_their_place_in_the_head(resnet50: Backbone) -> None:
    names = keymap.detectron2("resnet50", "C4").names
    left = [names[name] for name in resnet50.tensors if keymap.stage_of(name) == "res5"]
    assert len(left) == 60
    assert all(name.startswith("roi_heads.res5.") for name in left)
