"""What a user declares: a prefix, an encoder, a family; and what a file without a reading is told to be."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converters import families, inspection
from converters.errors import UserError
from converters.families import Reading
from converters.fingerprint import fingerprint
from tests import checkpoints
from tests.layouts import CASES, body, linear, norm, pointer, sequential, under
from transfer.__main__ import main

Q, K = body(1), body(2)


def imgsim() -> Path:
    """A real self-supervised ResNet-50 inside an installed package (which is not imported)."""
    spec = importlib.util.find_spec("imgsim")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model.pth"


def test_a_real_strangers_file_is_converted_by_declaring_its_prefix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.safetensors"
    words = ("convert", str(imgsim()), "--to", "backbone", "-o", str(output))
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "found one under the prefix 'module.pre.'; declare it with: --prefix module.pre." in told
    assert not output.exists()
    assert main((*words, "--prefix", "module.pre.")) == 0
    backbone = families.read(output)
    raw = torch.load(imgsim(), map_location="cpu", weights_only=True)
    expected = {n.removeprefix("module.pre."): value for n, value in raw.items() if "fc." not in n}
    assert len(backbone.tensors) == 318
    assert backbone.fingerprint == fingerprint(expected)
    assert backbone.origin.dropped == {"classifier or projection head": 2}
    assert (backbone.origin.family, backbone.origin.prefix) == ("declared prefix", "module.pre.")


def test_a_declared_prefix_leaves_out_all_that_is_elsewhere(tmp_path: Path) -> None:
    state = under("net.a.", Q | linear("fc")) | under("net.b.", K) | linear("projector.0")
    content = {"weights": {"inner": state}, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}}}
    path = checkpoints.write(tmp_path / "c.pth", content)
    with pytest.raises(
        UserError, match=r"one under the prefix 'net\.a\.' and one under 'net\.b\.'; declare which with"
    ):
        families.read(path)
    backbone = families.read(path, Reading(prefix="net.b."))
    assert backbone.fingerprint == fingerprint(K)
    assert (backbone.origin.container, backbone.origin.encoder) == ("weights.inner", "")
    assert backbone.origin.dropped == {"outside the declared prefix": 120 + 2 + 2 + 1}
    with pytest.raises(UserError, match=r"expected a ResNet encoder under the prefix 'net\.c\.', found one under"):
        families.read(path, Reading(prefix="net.c."))
    state["net.b.stray.weight"] = torch.zeros(1)
    checkpoints.write(path, content)
    with pytest.raises(UserError, match=r"found 'net\.b\.stray\.weight', which no rule accounts for"):
        families.read(path, Reading(prefix="net.b."))


def test_a_declared_prefix_reads_numbered_children_and_with_a_family_its_names_and_input(tmp_path: Path) -> None:
    numbered = checkpoints.write(tmp_path / "n.pth", under("a.features.", sequential(Q)))
    assert families.read(numbered, Reading(prefix="a.features.")).fingerprint == fingerprint(Q)
    plain = checkpoints.write(tmp_path / "p.pth", under("a.", Q))
    backbone = families.read(plain, Reading(prefix="a.", family="openmmlab-bgr"))
    assert (backbone.preprocess.channel_order, backbone.origin.family) == ("BGR", "openmmlab-bgr")
    with pytest.raises(UserError, match="expected --encoder or --prefix, found both"):
        families.read(plain, Reading(prefix="a.", encoder="k"))


def test_a_prefix_that_is_in_two_containers_is_ambiguous(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "c.pth", CASES["dino"].content())
    with pytest.raises(UserError, match=r"expected one encoder under the prefix .*, found several, below"):
        families.read(path, Reading(prefix="module.backbone."))


def test_an_encoder_that_a_file_lacks_is_an_error(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "c.pth", CASES["simsiam"].content())
    with pytest.raises(UserError, match="expected two encoders, of which k is wanted, found one; leave out --encoder"):
        families.read(path, Reading(encoder="k"))
    teacher = CASES["dino"].content()
    del teacher["student"]
    checkpoints.write(path, teacher)
    backbone = families.read(path)
    assert (backbone.fingerprint, backbone.origin.encoder) == (fingerprint(K), "k")
    with pytest.raises(UserError, match="of which q is wanted, found one, k"):
        families.read(path, Reading(encoder="q"))


def test_an_alias_that_holds_other_values_is_an_error(tmp_path: Path) -> None:
    content = CASES["densecl raw"].content()
    state = content["state_dict"]
    state["encoder_q.0.layer3.1.bn2.running_var"] = state["encoder_q.0.layer3.1.bn2.running_var"].clone()
    state["encoder_q.0.layer3.1.bn2.running_var"][0] += 1
    with pytest.raises(
        UserError, match=r"the same values in 'backbone\.layer3\.1\.bn2\.running_var' and in 'encoder_q"
    ):
        families.read(checkpoints.write(tmp_path / "c.pth", content))


def test_our_own_files_say_how_they_are_read(tmp_path: Path) -> None:
    families.random_backbone("resnet18", 0).save(tmp_path / "b.safetensors")
    assert families.read(tmp_path / "b.safetensors", Reading(family="backbone")).arch == "resnet18"
    for how in (Reading(prefix="x."), Reading(encoder="q"), Reading(family="moco")):
        with pytest.raises(UserError, match="a file that says how it is read"):
            families.read(tmp_path / "b.safetensors", how)


def test_the_same_meaning_under_several_families_is_no_ambiguity(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "c.pth", {"state_dict": under("backbone.", Q)})
    told = families.read(path)
    for family in ("solo-learn", "mmpretrain", "lightly"):
        backbone = families.read(path, Reading(family=family))
        assert (backbone.fingerprint, backbone.preprocess) == (told.fingerprint, told.preprocess)
        assert backbone.origin.family == family


def _renamed(replace: dict[str, str]) -> Callable[[], Any]:
    def make() -> Any:
        state = dict(Q)
        for name in Q:
            for old, new in replace.items():
                if name.startswith(old):
                    state[new + name.removeprefix(old)] = state.pop(name)
        return state

    return make


def _cifar() -> Any:
    return {"state_dict": under("backbone.", Q | {"conv1.weight": torch.zeros(64, 3, 3, 3)}) | linear("classifier")}


def _resnet50d() -> Any:
    state = {name: value for name, value in Q.items() if not name.startswith(("conv1.", "bn1."))}
    return (
        state | {"conv1.0.weight": torch.zeros(32, 3, 3, 3), "conv1.3.weight": torch.zeros(32, 32, 3, 3)} | norm("bn1")
    )


def _pooled_shortcut() -> Any:
    state = dict(Q)
    for stage in (2, 3, 4):
        state[f"layer{stage}.0.downsample.1.weight"] = state.pop(f"layer{stage}.0.downsample.0.weight")
    return state


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a deep stem of timm": (_resnet50d, r"a deep stem of three 3x3 convolutions .*at 'conv1\.0\.weight'"),
    "a deep stem of OpenMMLab": (
        lambda: {
            "state_dict": under("backbone.", {"stem.0.weight": torch.zeros(32, 3, 3, 3)} | linear("layer1.0.conv1"))
        },
        r"a deep stem .*at 'backbone\.stem\.0\.weight'",
    ),
    "a CIFAR stem": (_cifar, "a CIFAR stem"),
    "shortcuts with pooling": (_pooled_shortcut, "average pooling"),
    "a vision transformer": (
        lambda: {"teacher": {"backbone.cls_token": torch.zeros(1, 1, 8), "backbone.pos_embed": torch.zeros(1, 5, 8)}},
        r"a vision transformer, at 'backbone\.cls_token'",
    ),
    "four channels": (lambda: Q | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, "a first convolution on 4 channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_network_is_refused_by_its_name(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        families.read(checkpoints.write(tmp_path / "c.pth", make()))
    assert "this network is not supported" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_network_in_the_file_is_not_overlooked(tmp_path: Path) -> None:
    content = CASES["simsiam"].content() | {"ema": under("m.", K)}
    with pytest.raises(UserError, match=r"found 'ema\.m\.conv1\.weight', which no rule accounts for"):
        families.read(checkpoints.write(tmp_path / "c.pth", content))


def test_inspect_says_where_the_encoder_is_and_that_there_is_another(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "c.pth", CASES["dino"].content())
    lines = dict(line.split("  ", 1) for line in inspection.inspect(str(path)).lines())
    rows = {label: value.strip() for label, value in lines.items()}
    assert rows["family"] == "dino"
    assert rows["encoder"] == (
        "k, the averaged one, below teacher, prefix module.backbone., the other one with --encoder q"
    )
    assert rows["tensors"].startswith("120 used; dropped: loss 1, projection head 16, query encoder 120")
    assert rows["method"].startswith("DINO")
    filled = checkpoints.write(tmp_path / "f.pth", {n: v for n, v in Q.items() if "num_batches" not in n})
    assert "120 used; filled: batch counter 0 20" in "\n".join(inspection.inspect(str(filled)).lines())


def test_a_pointer_or_an_optimizer_alone_is_no_encoder(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "c.pth", {"state_dict": {"queue_ptr": pointer()}, "epoch": 1})
    with pytest.raises(UserError, match=r"found only tensors under: queue_ptr \(1\); known families: .*vissl"):
        families.read(path)
