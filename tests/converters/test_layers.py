"""The same weights in other layers are another network: no receipt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from converters import keymap
from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.layers import check_layers
from converters.metadata import Preprocess
from converters.parity import quiet
from converters.receipt import module_receipt


@pytest.fixture(scope="module")
def resnet50() -> Backbone:
    return random_backbone("resnet50", 0)


def put(path: str, **values: object) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def another_convolution(model: Any) -> None:
    class Other(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    other = Other(64, 64, 1, bias=False)
    other.load_state_dict(model.layer1[0].conv1.state_dict())
    model.layer1[0].conv1 = other


def one_more_module(model: Any) -> None:
    model.layer4.append(nn.Softmax(1))


def hooked(model: Any) -> None:
    def twice(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return 2 * output

    model.layer4.register_forward_hook(twice)


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "epsilon": (put("layer2.1.bn2", eps=1e-3), r"layer2\.1\.bn2 .*: expected eps 1e-05, found 0\.001"),
    "padding": (put("layer3.0.conv2", padding_mode="circular"), r"expected padding_mode zeros, found circular"),
    "dilation": (put("layer4.0.conv2", dilation=(2, 2)), r"layer4\.0\.conv2 .*: expected padding \(2, 2\), found \(1"),
    "stem": (put("conv1", stride=(1, 1)), r"conv1.* expected stride 2, found 1"),
    "stride": (put("layer3.0.conv2", stride=(1, 1)), r"expected stride 1 in the shortcut too, found 2"),
    "stride of a later block": (put("layer3.1.conv2", stride=(2, 2)), r"layer3\.1 .*expected stride 1, found 2"),
    "groups": (put("layer1.0.conv1", groups=2), "expected groups 1, found 2"),
    "no pooling": (put("", maxpool=nn.Identity()), r"maxpool .*expected a max pooling of 3x3"),
    "other pooling": (put("", maxpool=nn.MaxPool2d(3, 2, 0)), "expected a max pooling of 3x3"),
    "no activation": (put("", relu=nn.Identity()), r"relu .*expected ReLU, found Identity"),
    "another activation": (put("layer1.1", relu=nn.GELU()), "expected ReLU, found GELU"),
    "another convolution": (another_convolution, "expected a plain convolution, found .*Other"),
    "one more module": (one_more_module, r"layer4\.3 .*expected a part of a ResNet, found .*Softmax"),
    "a hook": (hooked, "layer4 .*register them after the receipt was taken"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_computes_something_else_gets_no_receipt(resnet50: Backbone, case: str) -> None:
    change, message = CHANGES[case]
    model = resnet50.module()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = keymap.torchvision("resnet50")
    check_layers(model, names, "resnet50")
    expected = model(image)
    change(model)
    try:
        found = model(image)
    except RuntimeError:
        pass  # some do not even run
    else:
        assert not torch.equal(found, expected)
    with pytest.raises(CheckFailed, match=message):
        module_receipt(model, resnet50.metadata, Preprocess())


def test_dilated_stages_of_segmentation_are_the_protocols_business(resnet50: Backbone) -> None:
    from converters import mmseg_model

    live = mmseg_model.live_backbone(
        resnet50, norm="BN", strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True
    )
    check_layers(live, keymap.mmseg("resnet50"), "resnet50")


def test_live_backbones_refuse_what_the_weights_do_not_mean(resnet50: Backbone) -> None:
    from converters import detectron2_model, mmseg_model

    for overrides in (
        {"norm_cfg": {"type": "BN", "eps": 1e-3}},
        {"strides": (2, 2, 2, 2)},
    ):
        with pytest.raises(CheckFailed, match="computes something else"):
            mmseg_model.live_backbone(resnet50, norm="BN", **overrides)
    with pytest.raises(UserError, match="expected a norm of SyncBN, BN, found 'GN'"):
        mmseg_model.live_backbone(resnet50, norm="GN")
    with pytest.raises(UserError, match="expected a kind of C4, FPN, found 'c4'"):
        detectron2_model.live_backbone(resnet50, "c4")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"expected a norm of .*, found 'XX'"):
        detectron2_model.live_backbone(resnet50, norm="XX")


@pytest.mark.parametrize("key", ["conv_cfg", "norm_cfg", "plugins"])
def test_what_openmmlabs_options_change_is_seen(resnet50: Backbone, key: str) -> None:
    options: dict[str, Any] = {
        "conv_cfg": {"type": "ConvWS"},
        "norm_cfg": {"type": "BN", "eps": 1e-3},
        "plugins": [{"cfg": {"type": "ContextBlock", "ratio": 1 / 16}, "position": "after_conv3"}],
    }
    with quiet():
        from mmseg.models.backbones import ResNet

        live = ResNet(depth=50, **{key: options[key]})
    with pytest.raises(CheckFailed, match="computes something else"):
        check_layers(live, keymap.mmseg("resnet50"), "resnet50")
