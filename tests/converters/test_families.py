from __future__ import annotations

import fractions
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from converters import families
from converters.errors import UserError
from converters.families import Reading
from converters.fingerprint import fingerprint
from converters.hashing import sha256_of
from tests import checkpoints


def backbone_of(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The encoder's tensors without the head, the naive way."""
    kept = {}
    for name, value in state.items():
        if name.startswith(prefix) and not name[len(prefix) :].startswith("fc."):
            kept[name[len(prefix) :]] = value
    return kept


@pytest.mark.parametrize("wrapper", ["module.", ""])
@pytest.mark.parametrize("v2", [False, True])
def test_reads_the_query_encoder_of_the_reference_layout(tmp_path: Path, wrapper: str, v2: bool) -> None:
    content = checkpoints.moco(wrapper=wrapper, v2=v2)
    path = checkpoints.write(tmp_path / "c.pth.tar", content)
    backbone = families.read(path)
    assert backbone.arch == "resnet18"
    expected = backbone_of(content["state_dict"], f"{wrapper}encoder_q.")
    assert backbone.tensors.keys() == expected.keys()
    assert all(torch.equal(backbone.tensors[name], value) for name, value in expected.items())
    heads = 4 if v2 else 2
    assert backbone.origin.dropped == {"key encoder": 120 + heads, "projection head": heads, "queue": 2}
    assert backbone.origin.method == ("MoCo v2" if v2 else "MoCo v1")
    assert backbone.origin.prefix == f"{wrapper}encoder_q."
    assert (backbone.origin.file, backbone.origin.epochs) == ("c.pth.tar", 200)
    assert backbone.origin.sha256 == sha256_of(path)


def test_reads_what_our_own_checkpoints_say_of_themselves(tmp_path: Path) -> None:
    content = checkpoints.moco() | {
        "schema": 1,
        "seed": 3,
        "recipe": {"id": "moco-v2-quickstart", "epochs": 4},
        "data": {"fingerprint": "ab" * 32},
    }
    origin = families.read(checkpoints.write(tmp_path / "c.pth.tar", content)).origin
    assert (origin.pretrain_seed, origin.recipe, origin.pretrain_data) == (3, "moco-v2-quickstart", "ab" * 32)


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_infers_the_architecture_from_keys_and_shapes(tmp_path: Path, arch: str) -> None:
    path = checkpoints.write(tmp_path / "resnet999.pth", checkpoints.encoder(arch))
    backbone = families.read(path)
    assert backbone.arch == arch
    assert (backbone.origin.family, backbone.origin.dropped) == ("torchvision", {"classifier": 2})


def test_reads_the_format_before_torch_1_6(tmp_path: Path) -> None:
    content = checkpoints.moco()
    old = checkpoints.write(tmp_path / "old.pth", content, _use_new_zipfile_serialization=False)
    new = checkpoints.write(tmp_path / "new.pth", content)
    assert families.read(old).fingerprint == families.read(new).fingerprint


def test_reads_torchvision_weights_in_a_safetensors_file(tmp_path: Path) -> None:
    state = checkpoints.encoder()
    save_file(state, tmp_path / "m.bin")
    assert families.read(tmp_path / "m.bin").fingerprint == fingerprint(backbone_of(state, ""))


def test_absent_batch_counters_are_filled_with_zero_and_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    state = checkpoints.encoder()
    without = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    backbone = families.read(checkpoints.write(tmp_path / "c.pth", without))
    assert len(backbone.tensors) == 120
    assert backbone.tensors["bn1.num_batches_tracked"].item() == 0
    assert backbone.fingerprint == fingerprint(backbone_of(state, ""))


def test_a_backbone_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = families.read(checkpoints.write(tmp_path / "c.pth.tar", checkpoints.moco()))
    written.save(tmp_path / "b.safetensors")
    read = families.read(tmp_path / "b.safetensors")
    assert read.metadata == written.metadata
    assert all(torch.equal(read.tensors[name], value) for name, value in written.tensors.items())


def test_random_backbones_follow_their_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = families.read_source("random:resnet18:1")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert families.random_backbone("resnet18", 1).fingerprint == first.fingerprint
    assert families.read_source("random:resnet18").fingerprint == families.random_backbone("resnet18", 0).fingerprint
    assert families.random_backbone("resnet18", 2).fingerprint != first.fingerprint
    assert (first.origin.file, first.origin.family) == ("random:resnet18:1", "random")


def _without_encoder() -> dict[str, Any]:
    return {"state_dict": {"backbone.conv2.weight": torch.zeros(64, 3, 7, 7), "head.weight": torch.zeros(2)}}


def _with_nan() -> dict[str, Any]:
    content = checkpoints.moco()
    content["state_dict"]["module.encoder_q.layer1.0.conv1.weight"][0] = float("nan")
    return content


def _in_state_dict(**extra: object) -> dict[str, Any]:
    content = checkpoints.moco()
    content["state_dict"] |= extra
    return content


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no encoder": (_without_encoder, r"found only tensors under: backbone\. \(1\), head\. \(1\); known families: "),
    "no tensors": (lambda: {"state_dict": {}, "epoch": 3}, "found no named tensors"),
    "a list": (lambda: [torch.zeros(2)], r"found only tensors under: 0 \(1\)"),
    "a number": (lambda: 3, "found no named tensors"),
    "no ResNet": (lambda: {"blocks.0.w": torch.zeros(2)}, r"found only tensors under: blocks\. \(1\)"),
    "two encoders": (
        lambda: checkpoints.moco() | checkpoints.encoder(),
        r"found several: moco \(state_dict: module\.encoder_q\.\), torchvision \(top level: no prefix\); choose with",
    ),
    "wrapped and unwrapped": (
        lambda: _in_state_dict(**{"encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7)}),
        r"found 'module\.encoder_q\.conv1\.weight' and 249 more, which no rule accounts for",
    ),
    "NaN": (_with_nan, "expected finite weights, found NaN or infinity in layer1.0.conv1.weight"),
    "an unknown tensor": (
        lambda: _in_state_dict(**{"module.extra.weight": torch.zeros(2)}),
        "found 'module.extra.weight', which no rule accounts for",
    ),
    "an unknown tensor in the encoder": (
        lambda: _in_state_dict(**{"module.encoder_q.layer1.0.se.weight": torch.zeros(2)}),
        r"found 'module\.encoder_q\.layer1\.0\.se\.weight', which no rule accounts for",
    ),
    "another block count": (
        lambda: _in_state_dict(**{"module.encoder_q.layer1.9.bn1.weight": torch.zeros(64)}),
        r"found \[3, 2, 2, 2\] basic blocks",
    ),
    "another shape": (
        lambda: _in_state_dict(**{"module.encoder_q.conv1.weight": torch.zeros(64, 3, 5, 5)}),
        r"conv1\.weight of shape \(64, 3, 7, 7\), found \(64, 3, 5, 5\)",
    ),
    "half precision": (
        lambda: _in_state_dict(**{"module.encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7).half()}),
        r"expected torch.float32 in conv1\.weight, found torch.float16; save it as float32 first",
    ),
    "code": (
        lambda: checkpoints.moco() | {"args": fractions.Fraction(1, 2)},
        "found a pickled fractions.Fraction, which is not run; save its state dict alone",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_that_cannot_be_read_gets_one_line(tmp_path: Path, case: str) -> None:
    make, message = WRONG[case]
    path = checkpoints.write(tmp_path / "c.pth.tar", make())
    with pytest.raises(UserError, match=message) as caught:
        families.read(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    content = checkpoints.moco()
    del content["state_dict"]["module.encoder_q.layer2.0.bn1.bias"]
    path = checkpoints.write(tmp_path / "c.pth.tar", content)
    with pytest.raises(UserError, match=r"found 1 missing, as 'layer2\.0\.bn1\.bias'"):
        families.read(path)


def test_a_family_asked_for_decides_and_an_unknown_one_gets_the_nearest(tmp_path: Path) -> None:
    both = checkpoints.moco() | checkpoints.encoder(seed=9)
    path = checkpoints.write(tmp_path / "c.pth.tar", {"state_dict": both["state_dict"]})
    assert families.read(path, Reading(family="moco")).origin.family == "moco"
    with pytest.raises(UserError, match="expected a ResNet encoder of the family torchvision"):
        families.read(path, Reading(family="torchvision"))
    with pytest.raises(UserError, match="did you mean 'torchvision'"):
        families.read(path, Reading(family="torchvison"))


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "found an empty file"),
    "text": (lambda _: b"hello, this is no checkpoint\n", "expected a checkpoint written by torch or safetensors"),
    "truncated": (lambda whole: whole[: len(whole) // 2], "found a truncated one"),
    "a picture": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(64), "another or damaged file"),
    "a damaged zip": (lambda whole: b"PK\x03\x04" + bytes(100) + whole[-2000:], "expected a whole checkpoint"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_checkpoint_gets_one_line(tmp_path: Path, case: str) -> None:
    damage, message = FILES[case]
    path = checkpoints.write(tmp_path / "c.pth", {"conv1.weight": torch.zeros(3000)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        families.read(path)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        families.read(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="found a folder"):
        families.read(tmp_path)
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        families.read_source("random:resnet19")
    with pytest.raises(UserError, match="expected a seed: a whole number"):
        families.read_source("random:resnet18:x")
