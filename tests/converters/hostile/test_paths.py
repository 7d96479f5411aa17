"""Paths that are no files, and files that are no checkpoints."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest
import torch

from converters import families, untrusted
from converters.errors import UserError
from tests.hostile import refusal
from transfer.__main__ import main


def line_of(path: Path) -> str:
    """What both entrances say of it."""
    with pytest.raises(UserError) as caught:
        untrusted.load(path)
    with pytest.raises(UserError) as again:
        families.read(path)
    assert str(caught.value) == str(again.value)
    return str(caught.value)


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert line_of(tmp_path / "pipe").endswith("pipe: expected a file, found a pipe, socket or device")


def test_what_is_no_file_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found a pipe, socket or device" in line_of(Path(os.devnull))
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "found a pipe, socket or device" in line_of(Path("socket"))
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    assert "found a link to a file that is not there" in line_of(tmp_path / "dangling")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert "expected a readable file" in line_of(tmp_path / "circle")
    assert "expected a readable file" in line_of(tmp_path / ("x" * 300))
    assert "embedded null byte" in line_of(tmp_path / "a\0b")


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "c.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path / "c.pth")
    assert torch.equal(untrusted.load(tmp_path / "link.pth").content["x"], torch.ones(1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "found a web page; download the file itself"),
        (b"<html>", "found a web page"),
        (gzip.compress(b"x" * 100, mtime=0), "found a gzip archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "found an HDF5 file"),
        (b"\x93NUMPY\x01\x00v\x00", "another or damaged file (it begins with b'\\x93NUMPY"),
        (b"\x80", "another or damaged file"),
        (b"\x80\x02", "a damaged one"),
        (b"\x80\x07", "another or damaged file"),
        (b"PK\x03\x04", "a truncated one"),
        (b"\x1b[31mred", "'\\x1b[31mred'"),
    ],
)
def test_files_that_are_taken_for_checkpoints_are_told(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "c.pth", data)


@pytest.mark.parametrize("kind", ["a pipe", "a pickle that runs code", "a truncated file", "an absent file"])
def test_a_refused_file_leaves_no_output(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "c.pth", tmp_path / "out"
    if kind == "a pipe":
        os.mkfifo(source)
    elif kind == "a pickle that runs code":
        source.write_bytes(b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch canary\x85R.")
    elif kind == "a truncated file":
        torch.save({"x": torch.ones(100)}, source)
        os.truncate(source, 300)
    out.mkdir()
    monkeypatch.chdir(out)
    for target, name in (("backbone", "b.safetensors"), ("detectron2", "b.pkl")):
        assert main(["convert", str(source), "--to", target, "-o", str(out / name)]) == 2
        told = capsys.readouterr()
        assert told.err.count("\n") == 1
        assert str(source) in told.err
        assert "Traceback" not in told.err
    assert list(out.iterdir()) == []
