from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from converters import architectures, keymap, receipt
from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.families import random_backbone
from converters.keymap import KeyMap
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


def _mmseg_resnet(depth: int) -> nn.Module:
    from mmengine.registry import DefaultScope

    from converters import mmseg_model

    with DefaultScope.overwrite_default_scope("mmseg"):
        return mmseg_model.MODELS.build({"type": "ResNet", "depth": depth})  # type: ignore[no-any-return]


def _detectron2_c4(depth: int) -> nn.Module:
    from converters import detectron2_model

    cfg = detectron2_model.get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", depth, "MODEL.DEVICE", "meta"])
    return detectron2_model.build_model(cfg)  # type: ignore[no-any-return]


def _live(target: str, depth: int) -> tuple[nn.Module, Callable[[str], KeyMap]]:
    """A live model of this depth without values, and the table in which a receipt looks its tensors up."""
    with torch.device("meta"):
        if target == "torchvision":
            return architectures.build(f"resnet{depth}"), keymap.torchvision
        if target == "detectron2":
            return _detectron2_c4(depth), lambda arch: keymap.detectron2(arch, "C4")
        model = nn.Module()
        model.backbone = _mmseg_resnet(depth)
        return model, lambda arch: keymap.mmseg(arch, "backbone")


@pytest.mark.parametrize(("target", "norm_tensors"), [("torchvision", 5), ("mmseg", 5), ("detectron2", 4)])
def test_a_deeper_model_gets_no_receipt(target: str, norm_tensors: int) -> None:
    """A ResNet-101 filled by `strict=False` holds all of a ResNet-50, and 17 blocks that are random."""
    model, names = _live(target, 101)
    others = 17 * 3 * (1 + norm_tensors)
    assert len(receipt.live_tensors(model, names("resnet101"))) == 104 * (1 + norm_tensors)
    with pytest.raises(
        CheckFailed, match=rf"318 tensors alone in the ResNet of the {target} model, found {others} oth"
    ):
        receipt.live_tensors(model, names("resnet50"))


def test_random_blocks_beside_the_backbone_are_seen(backbone: Backbone) -> None:
    deeper = random_backbone("resnet34", 1).module()
    deeper.load_state_dict(dict(backbone.tensors), strict=False)
    with pytest.raises(CheckFailed, match=r"found 96 others, as layer1\.2\.bn1\.bias"):
        receipt.module_receipt(deeper, backbone.metadata, Preprocess())


def test_the_norm_of_the_detector_behind_res5_is_no_strange_tensor() -> None:
    names = keymap.detectron2("resnet50", "C4")
    model = nn.Module()
    state = dict.fromkeys([*names.names.values(), "roi_heads.res5.norm.weight", "backbone.fpn.weight"], torch.zeros(1))
    model.state_dict = lambda: state  # type: ignore[assignment, method-assign]
    assert len(receipt.live_tensors(model, names)) == 318
    for strange in ("roi_heads.res5.3.conv1.weight", "backbone.res5.0.conv1.weight", "backbone.stem.conv2.weight"):
        state[strange] = torch.zeros(1)
        with pytest.raises(CheckFailed, match=f"found 1 others, as {strange}"):
            receipt.live_tensors(model, names)
        del state[strange]
