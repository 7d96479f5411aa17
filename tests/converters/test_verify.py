"""A conversion is proved once more, or the first thing that changed is named."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from converters import certificate, conversion, verify
from converters.certificate import Certificate, Target
from converters.errors import CheckFailed, UserError
from converters.families import Reading, random_backbone, read
from converters.hashing import sha256_of
from tests import checkpoints
from transfer.__main__ import main

FILES: dict[str, Target] = {
    "b.safetensors": "backbone",
    "b.pkl": "detectron2",
    "b.pth": "mmseg",
    "torchvision.pth": "torchvision",
    "timm.safetensors": "timm",
    "mmdet.pth": "mmdet",
    "mmpretrain.pth": "mmpretrain",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    backbone = read(checkpoints.write(folder / "c.pth.tar", checkpoints.moco()))
    for name, target in FILES.items():
        conversion.convert(backbone, target, folder / name)
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """Of one test alone; what is large is linked, and replaced to be changed."""
    folder = tmp_path / "files"
    folder.mkdir()
    for file in made.iterdir():
        copy = shutil.copy if file.stat().st_size < 1 << 20 else os.link
        copy(file, folder / file.name)
    return folder


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_an_untouched_conversion_is_proved_again(files: Path, name: str) -> None:
    seen = verify.verify(files / name, files / "c.pth.tar")
    assert seen.notes == ()
    assert seen.repeated == seen.certificate.model_copy(
        update={"seal": seen.repeated.seal, "parity": seen.repeated.parity}
    )
    if name != "b.safetensors":
        assert seen.repeated.verdict == "proved"
        assert seen.repeated.parity is not None
        assert all(row.relative <= 1e-5 for row in seen.repeated.parity.stages)
    assert verify.verify(files / f"{name}.certificate.json").certificate == seen.certificate


@pytest.mark.parametrize("name", ["b.safetensors", "b.pkl", "b.pth"])
def test_one_flipped_bit_anywhere_in_the_weights_is_found(files: Path, name: str) -> None:
    bits = 8 * (files / name).stat().st_size
    for bit in random.Random(0).sample(range(bits), 5):
        flip(files / name, bit)
        with pytest.raises(CheckFailed, match=rf"{name}: expected the sha256 .* it is another file, or was changed"):
            verify.verify(files / name)
        flip(files / name, bit)


def test_one_flipped_bit_anywhere_in_a_certificate_is_found(files: Path) -> None:
    papers = files / "b.safetensors.certificate.json"
    for bit in random.Random(0).sample(range(8 * papers.stat().st_size), 600):
        flip(papers, bit)
        with pytest.raises(CheckFailed, match="verify: "):
            verify.verify(files / "b.safetensors")
        flip(papers, bit)


def test_a_changed_fragment_is_found(files: Path) -> None:
    (files / "b.py").write_text((files / "b.py").read_text().replace("norm_eval=False", "norm_eval=True"))
    with pytest.raises(CheckFailed, match=r"b\.py: expected the sha256"):
        verify.verify(files / "b.pth")


def resealed(papers: Path, **changes: object) -> None:
    """What somebody can do who changes a certificate on purpose."""
    paper = certificate.read(papers)
    paper.model_copy(update=changes).write(papers)


def test_a_strangers_fragment_is_never_run_even_where_its_certificate_agrees(files: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    fragment = files / "b.py"
    fragment.write_text(fragment.read_text() + f"\nopen({str(canary)!r}, 'w')\n")
    paper = certificate.read(files / "b.pth.certificate.json")
    assert paper.fragment is not None
    new = paper.fragment.model_copy(update={"sha256": sha256_of(fragment)})
    resealed(files / "b.pth.certificate.json", fragment=new)
    with pytest.raises(CheckFailed, match=r"expected the fragment that moco-transfer .* writes, found another text"):
        verify.verify(files / "b.pth")
    # Of another version the text may differ, and is not run either.
    resealed(files / "b.pth.certificate.json", versions=paper.versions | {"moco-transfer": "0.0.1"})
    notes = verify.verify(files / "b.pth").notes
    assert any("the proof was repeated with the one of" in note for note in notes)
    assert any(note.startswith("other versions now: moco-transfer 0.0.1 -> ") for note in notes)
    assert not canary.exists()


def test_a_certificate_that_tells_something_else_is_found(files: Path) -> None:
    papers = files / "b.pkl.certificate.json"
    paper = certificate.read(papers)
    assert paper.parity is not None
    for changes, message in (
        ({"fingerprint": "0" * 64}, "expected the certificate's fingerprint 000"),
        ({"source": paper.source.model_copy(update={"method": "MoCo v1"})}, "expected the certificate's origin"),
        ({"coverage": paper.coverage.model_copy(update={"expected": 318})}, "expected .*318"),
        ({"parity": paper.parity.model_copy(update={"picture_sha256": ""})}, "expected the picture_sha256"),
    ):
        resealed(papers, **changes)
        with pytest.raises(CheckFailed, match=message):
            verify.verify(files / "b.pkl")
        paper.write(papers)


def test_weights_that_their_source_does_not_hold_are_found(files: Path) -> None:
    """A forger can name any source, but that source gives other tensors."""
    backbone = read(files / "b.safetensors")
    other = random_backbone("resnet18", 5)
    forged = dataclasses.replace(other, origin=backbone.origin)
    conversion.convert(forged, "backbone", files / "forged.safetensors")
    assert verify.verify(files / "forged.safetensors").repeated.verdict == "read back"
    with pytest.raises(CheckFailed, match=r"c\.pth\.tar: expected the fingerprint .* of the converted weights"):
        verify.verify(files / "forged.safetensors", files / "c.pth.tar")


def test_the_source_is_read_as_it_was(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "c.pth.tar", checkpoints.moco())
    for name, how in (("k", Reading(encoder="k")), ("p", Reading(prefix="module.encoder_k."))):
        conversion.convert(read(source, how), "backbone", tmp_path / f"{name}.safetensors")
        assert verify.verify(tmp_path / f"{name}.safetensors", source).notes == ()


def test_a_renamed_conversion_is_refused_because_its_fragment_names_other_weights(files: Path) -> None:
    for suffix in (".pkl", ".yaml", ".pkl.certificate.json"):
        (files / f"b{suffix}").rename(files / f"new{suffix}")
    with pytest.raises(CheckFailed, match=r"new\.pkl: expected the name 'b\.pkl' under which it was written"):
        verify.verify(files / "new.pkl")


def test_names_that_a_stranger_chose_are_neither_followed_nor_run(files: Path, tmp_path: Path) -> None:
    papers = files / "b.pth.certificate.json"
    paper = certificate.read(papers)
    assert paper.fragment is not None
    resealed(papers, fragment=paper.fragment.model_copy(update={"file": "../../out.py"}))
    with pytest.raises(CheckFailed, match=r"b\.py: expected the name '\.\./\.\./out\.py'"):
        verify.verify(files / "b.pth")
    assert not list(tmp_path.rglob("out.py"))
    code = "b\nopen('canary', 'w')\n#.pth"
    (files / code).write_bytes(b"")
    paper.write(files / f"{code}.certificate.json")
    with pytest.raises(UserError, match="expected a file name of printable characters"):
        verify.verify(files / code)


def test_the_head_of_a_fragment_does_not_matter(files: Path) -> None:
    resnet50 = files / "r50.pkl"
    backbone = read(files / "b.safetensors")
    conversion.convert(backbone, "detectron2", resnet50, head="FPN")
    assert verify.verify(resnet50).notes == ()


def test_the_command_tells_by_its_exit_code(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = files / "b.safetensors"
    assert main(["verify", str(weights), "--source", str(files / "c.pth.tar")]) == 0
    assert "120 of 120 tensors" in capsys.readouterr().out
    assert main(["verify", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repeated"]["verdict"] == "read back"
    assert main(["verify", str(weights), "--source", str(files / "b.pkl")]) == 1
    assert "b.pkl: expected the sha256" in capsys.readouterr().err
    flip(weights, 8 * weights.stat().st_size - 1)
    assert main(["verify", str(weights)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    (files / "b.pkl.certificate.json").unlink()
    for absent in (files / "absent.pth", files / "b.pkl", files / "c.pth.tar"):
        assert main(["verify", str(absent)]) == 2
        assert str(absent) in capsys.readouterr().err


def test_the_shipped_schema_is_the_models_own(made: Path) -> None:
    shipped = json.loads(Path(certificate.__file__).with_name("certificate.schema.json").read_text())
    assert shipped == Certificate.model_json_schema(), "write it anew with: python -m converters.certificate"
    written = json.loads((made / "b.pkl.certificate.json").read_text())
    assert set(shipped["required"]) <= written.keys() <= set(shipped["properties"])
    assert shipped["additionalProperties"] is False


def test_a_certificate_of_another_version_is_refused(files: Path) -> None:
    papers = files / "b.pth.certificate.json"
    papers.write_text(papers.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(UserError, match="expected version 2 of a certificate, found 3"):
        certificate.read(papers)
