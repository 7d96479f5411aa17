"""Every family's layout, with the encoder that was put in and the counts that its source implies."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from converters import families
from converters.errors import UserError
from converters.families import Reading, source
from converters.fingerprint import fingerprint
from converters.untrusted import CheckpointFile
from tests import checkpoints
from tests.layouts import CASES, Case, State

TWO = [name for name, case in CASES.items() if case.k is not None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    return {
        name: checkpoints.write(folder / f"{index}.pth", case.content())
        for index, (name, case) in enumerate(CASES.items())
    }


def tensors_in(content: object) -> int:
    if isinstance(content, torch.Tensor):
        return 1
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else []
    return sum(map(tensors_in, inner))


@pytest.mark.parametrize("name", CASES)
def test_the_encoder_that_was_put_in_comes_out_and_every_tensor_is_accounted_for(
    files: dict[str, Path], name: str
) -> None:
    case = CASES[name]
    backbone = families.read(files[name])
    expected: State = case.k if case.encoder == "k" and case.k is not None else case.q
    assert backbone.fingerprint == fingerprint(expected)
    assert torch.equal(backbone.tensors["bn1.num_batches_tracked"], expected["bn1.num_batches_tracked"])
    origin = backbone.origin
    assert (origin.family, origin.encoder, origin.method) == (case.family, case.encoder, case.method)
    read_k = case.encoder == "k"
    assert origin.prefix == (case.k_prefix if read_k else case.prefix)
    assert origin.container == (case.k_container if read_k and case.k_container is not None else case.container)
    assert origin.dropped == case.dropped
    assert origin.filled == {}
    assert len(backbone.tensors) + sum(origin.dropped.values()) == tensors_in(case.content())
    assert (backbone.preprocess.channel_order, backbone.stride_in_1x1) == ("RGB", False)


@pytest.mark.parametrize("name", TWO)
def test_each_of_two_encoders_comes_with_its_own_statistics(files: dict[str, Path], name: str) -> None:
    case = CASES[name]
    assert case.k is not None
    q = families.read(files[name], Reading(encoder="q"))
    k = families.read(files[name], Reading(encoder="k"))
    assert (q.fingerprint, k.fingerprint) == (fingerprint(case.q), fingerprint(case.k))
    assert (q.origin.encoder, k.origin.encoder) == ("q", "k")
    assert (q.origin.prefix, k.origin.prefix) == (case.prefix, case.k_prefix)
    assert (q.origin.container, k.origin.container) == (case.container, case.k_container or case.container)
    for backbone, own in ((q, case.q), (k, case.k)):
        assert torch.equal(backbone.tensors["layer2.0.bn1.running_var"], own["layer2.0.bn1.running_var"])
    assert q.origin.dropped["key encoder"] >= 120
    assert k.origin.dropped["query encoder"] >= 120


def loaded(content: object) -> CheckpointFile:
    """As if it had been read: what a file's tensors are called does not depend on its container."""
    digest: Future[str] = Future()
    digest.set_result("")
    return CheckpointFile(Path("c.pth"), content, digest)


def weights_of(content: dict[str, Any], case: Case) -> State:
    """The mapping that holds the trained encoder."""
    for key in case.container.split(".") if case.container else ():
        content = content[key]
    return content


@pytest.mark.parametrize("name", CASES)
def test_a_stray_tensor_fails_by_name(name: str) -> None:
    content = CASES[name].content()
    weights = weights_of(content, CASES[name])
    wrapper = "module." if all(key.startswith("module.") for key in weights) else ""
    weights[f"{wrapper}stray.weight"] = torch.zeros(2)
    with pytest.raises(
        UserError, match=r"found '((student|state_dict)\.)?(module\.)?stray\.weight', which no rule accounts for"
    ) as caught:
        source.of_content(loaded(content), Reading())
    assert str(caught.value).startswith("c.pth: ")


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, "renamed") for name in CASES), ("dino", "missing"), ("dino", "shape"), ("densecl raw", "shape")],
)
def test_a_damaged_encoder_fails_by_name(name: str, damage: str) -> None:
    case = CASES[name]
    content = case.content()
    weights = weights_of(content, case)
    sequential = not any(key.endswith("layer2.0.bn2.bias") for key in weights)
    tail = ".5.0.bn2.bias" if sequential else "layer2.0.bn2.bias"
    # Of aliases too, lest they differ.
    victims = [key for key in weights if key.endswith(tail)]
    assert victims
    for victim in victims:
        value = weights.pop(victim)
        if damage == "renamed":
            weights[victim.replace("bn2.bias", "bn2.bais")] = value
        elif damage == "shape":
            weights[victim] = value[:-1].clone()
    how = Reading(encoder="q" if case.k is not None else None)
    with pytest.raises(UserError) as caught:
        source.of_content(loaded(content), how)
    assert "layer2.0.bn2.b" in str(caught.value) or (sequential and "5.0.bn2.b" in str(caught.value))
