from __future__ import annotations

import pytest
import torch
from torch import nn

from converters import receipt
from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.families import random_backbone
from converters.metadata import Preprocess


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def flip_one_bit(tensor: torch.Tensor) -> None:
    """The lowest bit of one value."""
    with torch.no_grad():
        tensor.view(-1).view(torch.int32)[0] ^= 1


def test_a_faithful_module_gets_a_receipt(backbone: Backbone) -> None:
    paper = receipt.module_receipt(backbone.module(), backbone.metadata, Preprocess())
    assert (paper.live, paper.backbone, paper.tensors) == (backbone.fingerprint, backbone.fingerprint, 100)
    assert receipt.still_frozen(paper, backbone.tensors).after == backbone.fingerprint


def test_a_head_and_a_distributed_wrapper_change_nothing(backbone: Backbone) -> None:
    module = backbone.module()
    module.fc = nn.Linear(512, 3)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(module)
        assert receipt.module_receipt(wrapped, backbone.metadata, Preprocess()).tensors == 100
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["conv1.weight", "layer3.1.bn2.running_var", "layer4.0.downsample.1.bias"])
def test_one_flipped_bit_is_seen(backbone: Backbone, name: str) -> None:
    module = backbone.module()
    flip_one_bit(module.state_dict()[name])
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        receipt.module_receipt(module, backbone.metadata, Preprocess())
    faithful = receipt.module_receipt(backbone.module(), backbone.metadata, Preprocess())
    with pytest.raises(CheckFailed, match="the frozen backbone changed"):
        receipt.still_frozen(faithful, {n: v for n, v in module.state_dict().items() if not n.startswith("fc.")})


@pytest.mark.parametrize(
    "wrong",
    [
        Preprocess(mean=(0.406, 0.456, 0.485)),
        Preprocess(channel_order="BGR"),
        Preprocess(std=(1.0, 1.0, 1.0)),
        Preprocess(value_range=(0.0, 255.0)),
    ],
)
def test_other_input_settings_are_seen(backbone: Backbone, wrong: Preprocess) -> None:
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        receipt.module_receipt(backbone.module(), backbone.metadata, wrong)


def test_the_same_input_on_the_scale_of_bytes_is_accepted(backbone: Backbone) -> None:
    on_bytes = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), value_range=(0.0, 255.0))
    assert receipt.module_receipt(backbone.module(), backbone.metadata, on_bytes).preprocess == on_bytes


def test_an_absent_tensor_is_named(backbone: Backbone) -> None:
    module = backbone.module()
    assert isinstance(module.layer1, nn.Sequential)
    module.layer1[0].bn1 = nn.Identity()
    with pytest.raises(CheckFailed, match=r"absent are 4, as layer1\.0\.bn1\.bias"):
        receipt.module_receipt(module, backbone.metadata, Preprocess())


def test_the_stride_is_read_from_the_modules() -> None:
    bottlenecks = random_backbone("resnet50", 0)
    module = bottlenecks.module()
    assert isinstance(module.layer2, nn.Sequential)
    module.layer2[0].conv1.stride, module.layer2[0].conv2.stride = (2, 2), (1, 1)
    with pytest.raises(CheckFailed, match="strides in 1x1 and in 3x3"):
        receipt.module_receipt(module, bottlenecks.metadata, Preprocess())
    for layer in (module.layer3, module.layer4):
        assert isinstance(layer, nn.Sequential)
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    with pytest.raises(CheckFailed, match="expected stride_in_1x1 False, found True"):
        receipt.module_receipt(module, bottlenecks.metadata, Preprocess())
