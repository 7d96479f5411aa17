"""Many checkpoints in one call of `convert`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters import families
from tests import checkpoints
from transfer.__main__ import main


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Three checkpoints of which the second is cut short, and the third holds a number that is not finite."""
    paths = [tmp_path / f"c{i}.pth.tar" for i in range(4)]
    for i, path in enumerate(paths):
        made = checkpoints.encoder(seed=i)
        if i == 2:
            made["layer4.1.bn2.weight"][0] = torch.nan
        checkpoints.write(path, made)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    return paths


def test_one_failure_does_not_stop_the_rest(
    sources: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["convert", *map(str, sources), "--to", "backbone", "--to", "detectron2", "-o", f"{tmp_path}/out/"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"c{i}{suffix}"
        for i in (0, 3)
        for suffix in (".pkl", ".pkl.certificate.json", ".safetensors", ".safetensors.certificate.json", ".yaml")
    ]
    for i in (0, 3):
        wanted = families.read(sources[i]).fingerprint
        for suffix, target, verdict in ((".safetensors", "backbone", "read back"), (".pkl", "detectron2", "proved")):
            weights = tmp_path / "out" / f"c{i}{suffix}"
            assert families.read(weights).fingerprint == wanted
            assert f"{weights}  {target}  {wanted[:12]}  {verdict}\n" in shown.out
    assert shown.out.endswith("2 of 4 converted, 2 failed\n")
    told = [line for line in shown.err.splitlines() if line.startswith("moco-transfer: ")]
    assert len(told) == 2
    assert told[0].startswith(f"moco-transfer: {sources[1]}: expected a whole checkpoint, found a truncated one")
    assert "expected finite weights, found NaN or infinity in layer4.1.bn2.weight" in told[1]
    assert "c2.pth.tar" in told[1]
    assert "convert  4/4" in shown.err


def test_what_exists_fails_alone_unless_forced(
    sources: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [str(sources[0]), str(sources[3])]
    out = tmp_path / "out"
    out.mkdir()
    (out / "c0.safetensors").write_text("mine")
    assert main(["convert", *good, "--to", "backbone", "-o", str(out)]) == 1
    assert (out / "c0.safetensors").read_text() == "mine"
    assert "c0.safetensors: expected no file of this name, found one" in capsys.readouterr().err
    assert (out / "c3.safetensors").is_file()
    assert main(["convert", *good, "--to", "backbone", "-o", str(out), "--force"]) == 0
    assert families.read(out / "c0.safetensors").fingerprint == families.read(sources[0]).fingerprint


def test_what_was_finished_before_a_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenMMLab builds no wide ResNet."""
    words = ["convert", "random:wide_resnet50_2:1", "absent.pth", "--to", "backbone", "--to", "mmseg"]
    assert main([*words, "-o", f"{tmp_path}/"]) == 1
    shown = capsys.readouterr()
    assert f"{tmp_path}/random-wide_resnet50_2-1.safetensors  backbone  " in shown.out
    assert "0 of 2 converted, 2 failed" in shown.out
    assert "moco-transfer: random:wide_resnet50_2:1: " in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.pth", "b.pth", "--to", "backbone", "-o", "{}/x.safetensors"], "a folder for several files"),
        (["a.pth", "--to", "backbone", "--to", "mmseg", "-o", "{}/x.pth"], "a folder for several files"),
        (["a.pth", "d/a.pt", "--to", "backbone", "-o", "{}/out/"], "found a.pth and d/a.pt, which would both become"),
        (["{}/a.pkl", "b.pkl", "--to", "detectron2", "-o", "{}", "--force"], "found the source itself"),
        (["{}/a.pkl", "--to", "detectron2", "-o", "{}/a.pkl", "--force"], "found the source itself"),
    ],
)
def test_wrong_use_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["convert", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_single_source_gets_its_name_in_a_folder(tmp_path: Path) -> None:
    assert main(["convert", "random:resnet18:1", "--to", "backbone", "-o", str(tmp_path)]) == 0
    read = families.read(tmp_path / "random-resnet18-1.safetensors")
    assert read.fingerprint == families.random_backbone("resnet18", 1).fingerprint
