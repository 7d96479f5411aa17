from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import checkpoints
from transfer.__main__ import main


def test_convert_and_inspect_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoints.write(tmp_path / "c.pth.tar", checkpoints.moco())
    output = tmp_path / "b.safetensors"
    assert main(["convert", str(source), "--to", "backbone", "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "120 of 120 tensors" in shown
    assert "verdict      read back (a backbone file belongs to no framework)" in shown
    assert str(output) in shown

    assert main(["inspect", str(source)]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["arch"].strip() == "resnet18"
    assert rows["method"].strip() == "MoCo v2, 200 epochs"
    assert rows["tensors"].strip() == "120 used; dropped: key encoder 124, projection head 4, queue 2"

    for path, kind in ((output, "backbone"), (tmp_path / "b.safetensors.certificate.json", "certificate")):
        assert main(["inspect", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "absent.pth", "--to", "mmseg", "-o", "{}/b.pth"], "absent.pth: expected a checkpoint, found no"),
        (["convert", "random:resnet18", "--to", "mmseg", "-o", "{}/b.pkl"], "expected a name that ends in .pth"),
        (["convert", "random:vgg", "--to", "mmseg", "-o", "{}/b.pth"], "expected a known architecture, found 'vgg'"),
        (["convert", "random:resnet18", "--to", "mmseg", "-o", "{}/b.pth", "--head", "fpn"], "--head with --to detec"),
        (["inspect", "{}"], "found a folder"),
        (["inspect", "{}/note.json"], "format 'moco-transfer-certificate'"),
        (["inspect", "{}/note.txt"], "expected a checkpoint written by torch or safetensors"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "note.json").write_text('{"a": 1}')
    (tmp_path / "note.txt").write_text("a note")
    before = sorted(tmp_path.iterdir())
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
