"""Checkpoints whose containers are whole, and whose content is no backbone: each container gets the same line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from converters import families
from converters.errors import UserError
from tests import checkpoints

WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "torch zip": torch.save,
    "torch before 1.6": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": save_file,
}


@pytest.fixture(scope="module")
def encoder() -> dict[str, Tensor]:
    return checkpoints.encoder()


def one(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    """A change of one tensor."""

    def apply(state: dict[str, Tensor]) -> None:
        state[name] = change(state[name])

    return apply


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    """A copy with this as its last value."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return change


DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "NaN": (one("layer4.1.bn2.weight", with_value(float("nan"))), "NaN or infinity in layer4.1.bn2.weight"),
    "infinity": (one("conv1.weight", with_value(float("inf"))), "NaN or infinity in conv1.weight"),
    "NaN in statistics": (one("bn1.running_var", with_value(float("nan"))), "NaN or infinity in bn1.running_var"),
    "float64": (one("bn1.bias", Tensor.double), "expected torch.float32 in bn1.bias, found torch.float64"),
    "bfloat16": (one("bn1.bias", Tensor.bfloat16), "found torch.bfloat16"),
    "bytes": (one("bn1.bias", Tensor.byte), "found torch.uint8"),
    "another shape": (one("bn1.bias", lambda value: value[:32].clone()), r"of shape (64,), found (32,)"),
    "more dimensions": (one("bn1.bias", lambda value: value[None].clone()), r"found (1, 64)"),
    "no block": (
        lambda state: [state.pop(name) for name in [*state] if name.startswith("layer3")] and None,
        "expected a ResNet's stages layer1 to layer4, found no layer3",
    ),
}


@pytest.mark.parametrize("container", WRITERS)
@pytest.mark.parametrize("case", DAMAGES)
def test_wrong_values_are_named(tmp_path: Path, encoder: dict[str, Tensor], container: str, case: str) -> None:
    damage, message = DAMAGES[case]
    state = dict(encoder)
    damage(state)
    path = tmp_path / "c.pth"
    WRITERS[container](state, path)
    with pytest.raises(UserError) as caught:
        families.read(path)
    assert message in str(caught.value)
    assert "c.pth: " in str(caught.value)


STRANGE: dict[str, Any] = {
    "a list": [1, 2],
    "a number": 3,
    "nothing": None,
    "numbers for names": {1: torch.ones(1), 2: torch.ones(2)},
    "no tensors": {"conv1.weight": 3.0},
    "dictionaries within": {"a": {"b": {"c": {"d": torch.ones(64, 3, 7, 7)}}}},
}


@pytest.mark.parametrize("container", ["torch zip", "torch before 1.6"])
@pytest.mark.parametrize("case", STRANGE)
def test_what_holds_no_backbone_is_told(tmp_path: Path, container: str, case: str) -> None:
    path = tmp_path / "c.pth"
    WRITERS[container](STRANGE[case], path)
    with pytest.raises(UserError, match=r"c\.pth: expected"):
        families.read(path)


@pytest.mark.parametrize("content", [[1], 3, None, {"model": 3}, {"model": {1: 2}}, {"moco_transfer": {"format": 1}}])
def test_a_pickle_that_holds_no_backbone_is_told(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"c\.pkl: expected"):
        families.read(path)
