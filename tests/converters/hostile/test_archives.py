"""Zip archives that are more than `torch.save` writes."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import untrusted
from tests.hostile import content, refusal

PICKLE = content(b"N")


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes], pickle: bool = True, compression: int = 0) -> bytes:
    """An archive with these beside the pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        if pickle:
            writer.writestr("a/data.pkl", PICKLE)
        for name, data in entries:
            writer.writestr(name, data)
    return file.getvalue()


def with_mode(name: str, mode: int) -> zipfile.ZipInfo:
    """An entry of another kind."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def patched(data: bytes, change: Callable[[bytearray, int, int], None]) -> bytes:
    """An archive whose directory was changed: `change` gets where its last entry and its end record start."""
    changed = bytearray(data)
    change(changed, data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06"))
    return bytes(changed)


def put(at: int, form: str, value: int) -> Callable[[bytearray, int, int], None]:
    """A number in the last entry of the directory."""
    return lambda data, entry, _: struct.pack_into(form, data, entry + at, value)


def put_end(at: int, form: str, value: int) -> Callable[[bytearray, int, int], None]:
    """A number in the end record."""
    return lambda data, _, end: struct.pack_into(form, data, end + at, value)


WHOLE = archive(("a/data/0", b"0123"))
ENTRY = "the header of 'a/data/0'"
ARCHIVES: dict[str, tuple[bytes, str]] = {
    "an absolute name": (archive(("/etc/passwd", b"x")), "relative names in a zip archive, found '/etc/passwd'"),
    "a name out of the archive": (archive(("a/../../x", b"x")), "relative names in a zip archive"),
    "a drive": (archive(("c:/x", b"x")), "relative names in a zip archive"),
    "a backslash": (patched(WHOLE, lambda d, e, _: d.__setitem__(e + 47, 92)), "relative names in a zip archive"),
    "a link": (archive((with_mode("a/data/0", stat.S_IFLNK | 0o777), b"/etc/passwd")), "a link or folder, 'a/data/0'"),
    "a device": (archive((with_mode("a/data/0", stat.S_IFBLK), b"")), "a link or folder, 'a/data/0'"),
    "another case": (archive(("a/DATA.pkl", b"x")), "every entry of a zip archive once, found 'a/DATA.pkl' twice"),
    "another folder": (archive(("b/data/0", b"x")), "entries in the folder 'a/' of the zip archive, found 'b/data/0'"),
    "a bomb": (archive(("a/data/0", bytes(10_000_000)), compression=zipfile.ZIP_DEFLATED), "'a/data.pkl' compressed"),
    "sizes that differ": (patched(WHOLE, put(24, "<L", 1 << 30)), "'a/data/0' compressed"),
    "encrypted": (patched(WHOLE, put(8, "<H", 1)), "'a/data/0' encrypted"),
    "one over the other": (patched(WHOLE, put(42, "<L", 0)), f"a damaged one ({ENTRY})"),
    "longer than the file": (
        patched(patched(WHOLE, put(20, "<L", 1 << 30)), put(24, "<L", 1 << 30)),
        "'data/0' longer than the file",
    ),
    "a header behind the file": (patched(WHOLE, put(42, "<L", 1 << 30)), "a directory that does not fit"),
    "a directory behind the file": (patched(WHOLE, put_end(16, "<L", 1 << 30)), "a directory that is not at its place"),
    "two counts": (patched(WHOLE, put_end(10, "<H", 1)), "a directory that is not at its place"),
    "a comment": (patched(WHOLE, put_end(20, "<H", 1)), "a directory that is not at its place"),
    "fewer than counted": (
        patched(patched(WHOLE, put_end(8, "<H", 3)), put_end(10, "<H", 3)),
        "a directory that does not fit",
    ),
    "more at the end": (WHOLE + b"x", "no zip directory at its end"),
    "empty": (archive(pickle=False), "found an empty zip"),
    "another zip": (archive(("word/document.xml", b"<x/>"), pickle=False), "another kind of zip (with 'word/document"),
    "TorchScript": (archive(("a/constants.pkl", b"x")), "a TorchScript archive, which holds code"),
    "code": (archive(("a/code/__torch__.py", b"x")), "a TorchScript archive, which holds code"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_torch_does_not_write_is_refused(tmp_path: Path, case: str) -> None:
    data, message = ARCHIVES[case]
    assert message in refusal(tmp_path / "c.pth", data)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    assert "'a/data.pkl' twice" in refusal(tmp_path / "c.pth", archive(("a/data.pkl", content(b"]"))))


def test_entries_over_each_other_are_refused(tmp_path: Path) -> None:
    # The second entry's header lies within the first one's bytes, as in bombs that unpack the same bytes repeatedly.
    inner = archive(("a/data/1", b"4567"), pickle=False)
    data = archive(("a/data/0", inner[: inner.index(b"PK\x01\x02")]), ("a/data/1", b"4567"))
    at = data.index(b"a/data/1") - 30
    assert data[at : at + 4] == b"PK\x03\x04"
    line = refusal(tmp_path / "c.pth", patched(data, put(42, "<L", at)))
    assert "entries of a zip archive beside each other, found 'data/1' over 'data/0'" in line


def test_more_entries_than_tensors_can_be_are_refused(tmp_path: Path) -> None:
    data = archive(*((f"a/data/{number}", b"") for number in range(40_001)))
    assert "at most 40,000 entries, found one of 40,002" in refusal(tmp_path / "c.pth", data)


def test_arrays_of_numpy_in_a_zip_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", weight=np.ones(3))
    assert "another kind of zip (with 'weight.npy')" in refusal(tmp_path / "c.npz", (tmp_path / "c.npz").read_bytes())


def test_a_real_torchscript_archive_is_told(tmp_path: Path) -> None:
    # As torch.jit.save lays it out, without calling it: it is deprecated.
    data = archive(("a/constants.pkl", b"x"), ("a/code/__torch__/x.py", b"class X:"))
    assert "torch.jit.load(FILE).state_dict()" in refusal(tmp_path / "c.pt", data)


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    tensors = {str(number): torch.full((3,), float(number)) for number in range(300)}
    torch.save(tensors, tmp_path / "c.pth")
    read = untrusted.load(tmp_path / "c.pth").content
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


def test_a_flipped_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    values = torch.arange(1000, dtype=torch.float32)
    torch.save({"x": values}, tmp_path / "c.pth")
    data = bytearray((tmp_path / "c.pth").read_bytes())
    data[data.index(values.numpy().tobytes()) + 2000] ^= 1
    line = refusal(tmp_path / "c.pth", bytes(data))
    assert "expected 'data/0' with the checksum" in line
    assert line.endswith("the file was damaged; fetch it anew")


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(3)}, tmp_path / "c.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(untrusted.load(tmp_path / "c.pth").content["x"], torch.ones(3))
