"""The encoders of MoCo v1's Table 1, against torchvision's own constructors and the frameworks' models."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from converters import architectures, conversion, families
from converters.architectures import ARCHITECTURES
from converters.certificate import Target
from converters.fingerprint import fingerprint

OF_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
OF_TABLE_1 = {"resnet50": 24, "resnext50_32x8d": 46, "resnet50w2x": 94, "resnet50w4x": 375}
"""Millions of parameters without the classifier: arXiv:1911.05722, Table 1."""


def on_meta(arch: str, num_classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return architectures.build(arch, num_classes)


@pytest.mark.parametrize(("arch", "millions"), OF_TABLE_1.items())
def test_the_encoders_have_the_papers_number_of_parameters(arch: str, millions: int) -> None:
    parameters = {name: value for name, value in on_meta(arch).named_parameters() if not name.startswith("fc.")}
    assert round(sum(value.numel() for value in parameters.values()) / 1e6) == millions
    assert architectures.expected_shapes(arch).keys() == architectures.expected_shapes("resnet50").keys()


@pytest.mark.parametrize("arch", OF_TORCHVISION)
def test_a_plain_resnet_is_torchvisions_to_the_bit(arch: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ours = architectures.build(arch, 10)
        torch.manual_seed(3)
        theirs = getattr(torchvision.models, arch)(num_classes=10)
    assert fingerprint(ours.state_dict()) == fingerprint(theirs.state_dict())


def test_a_resnext_has_groups_as_torchvision_builds_them() -> None:
    """torchvision has no 50-layer ResNeXt of this width, but a 101-layer one, whose first stages are alike."""
    with torch.device("meta"):
        deeper = torchvision.models.resnext101_32x8d()
    convolutions = {name: module for name, module in deeper.named_modules() if isinstance(module, nn.Conv2d)}
    for name, module in on_meta("resnext50_32x8d").named_modules():
        if isinstance(module, nn.Conv2d):
            assert str(module) == str(convolutions[name]), name


@pytest.mark.parametrize(("arch", "factor"), [("resnet50w2x", 2), ("resnet50w4x", 4)])
def test_every_layer_of_a_widened_resnet_has_that_many_times_the_channels(arch: str, factor: int) -> None:
    narrow = dict(on_meta("resnet50").named_modules())
    for name, module in on_meta(arch).named_modules():
        plain = narrow[name]
        if isinstance(module, nn.Conv2d):
            assert isinstance(plain, nn.Conv2d)
            assert module.out_channels == factor * plain.out_channels, name
            assert module.in_channels == (3 if name == "conv1" else factor * plain.in_channels), name
            assert (module.stride, module.padding, module.kernel_size) == (
                plain.stride,
                plain.padding,
                plain.kernel_size,
            )
            assert (module.groups, module.bias) == (1, None)
    assert ARCHITECTURES[arch].feature_dim == factor * 2048


def test_a_widened_resnet_is_initialised_and_computes_features() -> None:
    """Kaiming by fan-out, as torchvision's constructor: std² = 2 / (channels out × k²)."""
    backbone = families.random_backbone("resnet50w2x", 0)
    for name, fan_out in (("conv1", 128 * 49), ("layer2.0.conv2", 256 * 9), ("layer4.2.conv3", 4096)):
        assert backbone.tensors[f"{name}.weight"].std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert backbone.tensors["layer3.1.bn2.weight"].eq(1).all()
    with torch.no_grad():
        features = backbone.module()(torch.ones(1, 3, 32, 32))
    assert features.shape == (1, 4096)
    assert features.isfinite().all()


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_the_architecture_is_told_from_shapes(arch: str) -> None:
    shapes = architectures.expected_shapes(arch)
    assert architectures.infer({name: torch.empty(s, device="meta") for name, s in shapes.items()}, Path("c")) == arch


@pytest.mark.parametrize(
    "arch", ["wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
)
def test_wide_and_grouped_resnets_are_those_of_torchvision(arch: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, arch)()
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert {name: tuple(value.shape) for name, value in state.items()} == architectures.expected_shapes(arch)
    assert architectures.infer(state, Path("c.pth")) == arch
    convolutions = {name: str(m) for name, m in theirs.named_modules() if isinstance(m, nn.Conv2d)}
    assert {name: str(m) for name, m in on_meta(arch).named_modules() if isinstance(m, nn.Conv2d)} == convolutions


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(sorted(ARCHITECTURES), 2)))
def test_shapes_tell_every_pair_of_architectures_apart(one: str, other: str) -> None:
    """The number of groups is in no tensor: were two architectures to differ in it alone, none could be told."""
    assert architectures.expected_shapes(one) != architectures.expected_shapes(other)


def test_one_wrong_tensor_does_not_make_it_another_architecture() -> None:
    shapes = architectures.expected_shapes("resnet50")
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    tensors["layer1.0.conv2.weight"] = torch.empty(256, 8, 3, 3, device="meta")
    assert architectures.infer(tensors, Path("c")) == "resnet50"


@pytest.mark.parametrize("target", ["detectron2", "mmseg"])
def test_a_resnext_has_parity_in_both_frameworks(tmp_path: Path, target: Target) -> None:
    backbone = families.random_backbone("resnext50_32x8d", 0)
    paper = conversion.convert(backbone, target, tmp_path / f"x{conversion.SUFFIXES[target]}")
    assert paper.verdict == "proved"
    assert (paper.coverage.mapped, paper.coverage.loaded) == (318, 318)
