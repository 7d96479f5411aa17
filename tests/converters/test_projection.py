from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from converters import families, projection
from converters.backbone import Backbone
from converters.conversion import convert
from converters.errors import UserError
from converters.families import random_backbone
from converters.metadata import head_beside


@pytest.fixture(params=["v1", "v2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, nn.Module]:
    """A MoCo checkpoint of a ResNet-18, and the head that lies in it as the query encoder's."""
    torch.manual_seed(3)
    head: nn.Module = nn.Linear(512, 128)
    if request.param == "v2":
        head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), head)
    tensors = dict(random_backbone("resnet18", 0).tensors)
    other = dict(random_backbone("resnet18", 1).tensors)
    state = {f"module.encoder_q.{name}": value for name, value in tensors.items()}
    state |= {f"module.encoder_q.fc.{name}": value for name, value in head.state_dict().items()}
    state |= {f"module.encoder_k.{name}": value for name, value in other.items()}
    state |= {f"module.encoder_k.fc.{name}": value + 1 for name, value in head.state_dict().items()}
    state |= {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    path = tmp_path / "moco.pth.tar"
    torch.save({"epoch": 1, "arch": "resnet18", "state_dict": state}, path)
    return path, head


def test_the_head_goes_where_its_backbone_goes(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, expected = checkpoint
    convert(families.read(path), "backbone", tmp_path / "out" / "moco.safetensors")
    head = Backbone.load(tmp_path / "out" / "moco.safetensors").head
    assert head is not None
    features = torch.randn(5, 512)
    with torch.no_grad():
        assert torch.equal(head.module()(features), expected(features))
    convert(families.read(path), "detectron2", tmp_path / "d2" / "moco.pkl")
    assert not list((tmp_path / "d2").glob("*head*"))


def test_the_head_is_that_of_the_encoder_that_is_read(checkpoint: tuple[Path, nn.Module]) -> None:
    path, expected = checkpoint
    head = families.read(path, families.Reading(encoder="k")).head
    assert head is not None
    name = next(iter(expected.state_dict()))
    assert torch.equal(head.tensors[name], expected.state_dict()[name] + 1)


def test_the_head_stays_out_of_the_fingerprint(checkpoint: tuple[Path, nn.Module]) -> None:
    assert families.read(checkpoint[0]).fingerprint == random_backbone("resnet18", 0).fingerprint


def test_a_head_of_another_backbone_is_refused(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    families.read(checkpoint[0]).save(tmp_path / "one.safetensors")
    random_backbone("resnet18", 7).save(tmp_path / "two.safetensors")
    (tmp_path / "one.head.safetensors").rename(tmp_path / "two.head.safetensors")
    with pytest.raises(UserError, match=r"two\.head\.safetensors: expected the head of the backbone"):
        Backbone.load(tmp_path / "two.safetensors")
    assert Backbone.load(tmp_path / "one.safetensors").head is None


def test_a_changed_or_damaged_head_is_refused(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    families.read(checkpoint[0]).save(tmp_path / "moco.safetensors")
    path = tmp_path / "moco.head.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="expected the tensors that its header names"):
        Backbone.load(tmp_path / "moco.safetensors")
    path.write_bytes(whole[:-50])
    with pytest.raises(UserError, match="expected a projection head"):
        Backbone.load(tmp_path / "moco.safetensors")


def test_a_backbone_without_a_head_leaves_no_other_head_beside_it(
    checkpoint: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    out = tmp_path / "moco.safetensors"
    backbone = families.read(checkpoint[0])
    convert(backbone, "backbone", out)
    assert head_beside(out).is_file()
    convert(replace(backbone, head=None), "backbone", out, force=True)
    assert not head_beside(out).exists()
    assert Backbone.load(out).head is None


def test_other_heads_are_no_heads_of_mocos() -> None:
    linear = nn.Linear(512, 128).state_dict()
    assert projection.recognised(linear, 512, "x") is not None
    assert projection.recognised(linear, 2048, "x") is None
    assert projection.recognised({"weight": linear["weight"]}, 512, "x") is None
    assert projection.recognised({name: value.half() for name, value in linear.items()}, 512, "x") is None
    with pytest.raises(UserError, match=r"x: expected finite weights, found NaN or infinity in bias of the head"):
        projection.recognised(linear | {"bias": torch.full((128,), torch.nan)}, 512, "x")
