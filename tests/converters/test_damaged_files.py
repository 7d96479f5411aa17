"""Files in our own formats that are damaged or hostile: one `UserError`, and no memory that their bytes do not fill."""

from __future__ import annotations

import dataclasses
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters import arrays, families, inspection, metadata, to_detectron2, to_openmmlab, untrusted
from converters.backbone import Backbone
from converters.errors import UserError
from converters.families import random_backbone
from converters.metadata import Preprocess
from converters.settings import parse
from tests import checkpoints


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


@pytest.fixture(scope="module")
def pickled(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pkl") / "b.pkl"
    to_detectron2.write_weights(backbone, path)
    return path


@pytest.fixture(scope="module")
def saved(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pth") / "b.pth"
    to_openmmlab.write_weights(backbone, path)
    return path


def put(*keys: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A damage: another value at this place."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


NORM = "stem.conv1.norm.weight"
BIG_ENDIAN = np.zeros(64, np.float32).astype(">f4")
PICKLES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (lambda content: content.pop("model"), "expected named tensors beside the header, found NoneType"),
    "a list": (put("model", value=[1]), "found list"),
    "a string": (put("model", NORM, value="x"), r"tensor of values in bn1\.weight, found another value \(str\)"),
    "big-endian": (put("model", NORM, value=BIG_ENDIAN), "an array of >f4"),
    "longdouble": (put("model", NORM, value=np.zeros(64, np.longdouble)), "an array of <f16"),
    "float64": (
        put("model", NORM, value=np.zeros(64)),
        r"expected torch\.float32 in bn1\.weight, found torch\.float64",
    ),
    "a header of numbers": (put("moco_transfer", "origin", value=3), "found a fault in origin"),
    "a deep header": (put("moco_transfer", "origin", value="[" * 100_000), "found a fault in origin"),
    "an unknown name": (
        put("model", "x", value=np.zeros(1, np.float32)),
        "expected tensors of resnet18 only, found 'x'",
    ),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_damaged_pickle_gets_one_line(pickled: Path, tmp_path: Path, case: str) -> None:
    damage, message = PICKLES[case]
    content = pickle.loads(pickled.read_bytes())
    damage(content)
    path = tmp_path / "d.pkl"
    arrays.write(content, path)
    with pytest.raises(UserError, match=message) as caught:
        families.read(path)
    assert str(caught.value).startswith(str(path))


SAVED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no state_dict": (lambda content: content.pop("state_dict"), "expected named tensors beside the header"),
    "a number": (
        put("state_dict", "bn1.weight", value=3),
        r"tensor of values in bn1\.weight, found another value \(int\)",
    ),
    "no values": (
        put("state_dict", "bn1.weight", value=torch.zeros(64, device="meta")),
        "a pickled torch._utils._rebuild_meta_tensor_no_storage, which is not run",
    ),
    "sparse": (
        put("state_dict", "bn1.weight", value=torch.eye(64)[0].to_sparse()),
        "a pickled torch._utils._rebuild_sparse_tensor, which is not run",
    ),
    "half": (put("state_dict", "bn1.weight", value=torch.zeros(64).half()), "found torch.float16"),
}


@pytest.mark.parametrize("case", SAVED)
def test_a_damaged_pth_gets_one_line(saved: Path, tmp_path: Path, case: str) -> None:
    damage, message = SAVED[case]
    content = torch.load(saved, weights_only=True)
    damage(content)
    path = checkpoints.write(tmp_path / "d.pth", content)
    with pytest.raises(UserError, match=message) as caught:
        families.read(path)
    assert str(caught.value).startswith(str(path))


def test_a_tensor_that_claims_a_huge_shape_is_not_copied(tmp_path: Path) -> None:
    content = checkpoints.moco()
    content["state_dict"]["module.encoder_q.conv1.weight"] = torch.zeros(1).expand(1 << 46)
    with pytest.raises(UserError, match=r"within the file's .* bytes, found one of shape \(70368744177664,\)"):
        families.read(checkpoints.write(tmp_path / "c.pth.tar", content))


class Allocate:
    """A pickle of a few bytes that asks for 512 MB."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (1 << 29,)


def test_a_pickle_of_a_few_bytes_allocates_no_more(tmp_path: Path) -> None:
    path = tmp_path / "b.pkl"
    path.write_bytes(pickle.dumps(Allocate(), protocol=4))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bytes in a call of builtins\.bytearray"):
            untrusted.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "impossible",
    [{"std": (0.2, 0.0, 0.2)}, {"std": (0.2, -0.1, 0.2)}, {"value_range": (1, 1)}, {"value_range": (1, 0)}],
)
def test_impossible_input_settings_are_refused(impossible: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"value_range must rise|every std must be above 0"):
        parse(Preprocess, impossible, "header")


def test_a_backbone_of_another_type_or_with_an_impossible_stride_is_refused(backbone: Backbone) -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in backbone.tensors.items()}
    with pytest.raises(UserError, match=r"expected torch\.float32 in conv1\.weight, found torch\.float16"):
        dataclasses.replace(backbone, tensors=halves)
    counters = {name: value.float() for name, value in backbone.tensors.items()}
    with pytest.raises(UserError, match=r"expected torch\.int64 in bn1\.num_batches_tracked"):
        dataclasses.replace(backbone, tensors=counters)
    with pytest.raises(UserError, match="expected a bottleneck ResNet for stride_in_1x1, found resnet18"):
        dataclasses.replace(backbone, stride_in_1x1=True)


def test_a_module_disturbs_no_generator_and_holds_a_copy(backbone: Backbone) -> None:
    before = torch.get_rng_state()
    module = backbone.module()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        module.get_parameter("conv1.weight").zero_()
    assert backbone.tensors["conv1.weight"].any()


def test_inspect_reads_a_file_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    load = untrusted.load
    monkeypatch.setattr(untrusted, "load", lambda path, **how: (loaded.append(path), load(path, **how))[1])
    assert inspection.inspect(str(saved)).kind == "openmmlab"
    assert loaded == [saved]


def test_a_header_is_told_from_other_files(saved: Path, backbone: Backbone, tmp_path: Path) -> None:
    assert metadata.safetensors_header(saved) is None
    backbone.save(tmp_path / "b.safetensors")
    header = metadata.safetensors_header(tmp_path / "b.safetensors")
    assert header is not None
    assert header["arch"] == "resnet18"
    with pytest.raises(UserError, match="another or damaged file"):
        metadata.read_metadata(saved)
