"""Headers of safetensors files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from converters import families, untrusted
from converters.errors import UserError
from tests.hostile import refusal


def told(shape: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """A tensor's row."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def written(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file; `header` as JSON where it is no text already."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ROW = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
HEADERS: dict[str, tuple[bytes, str]] = {
    "a name twice": (
        written(b'{"a":' + ROW + b',"a":' + ROW + b"}", bytes(8)),
        "expected every name once, found 'a' twice",
    ),
    "a row's key twice": (
        written(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "found 'dtype' twice",
    ),
    "one over the other": (written({"a": told([2], 0, 8), "b": told([2], 4, 12)}, bytes(12)), "invalid offset"),
    "a hole": (written({"a": told([2], 0, 8), "b": told([2], 12, 20)}, bytes(20)), "invalid offset"),
    "behind the file": (written({"a": told([2], 0, 8)}, bytes(4)), "not fully covered"),
    "more at the end": (written({"a": told([2], 0, 8)}, bytes(12)), "not fully covered"),
    "another shape": (written({"a": told([3], 0, 8)}, bytes(8)), "invalid shape"),
    "an overflow": (written({"a": told([1 << 62, 4], 0, 0)}), "overflow"),
    "a negative shape": (written({"a": told([-1], 0, 4)}, bytes(4)), "a damaged one"),
    "a broken shape": (written({"a": told([1.5], 0, 4)}, bytes(4)), "a damaged one"),
    "an unknown type": (written({"a": told([2], 0, 8, "F33")}, bytes(8)), "a damaged one"),
    "a number as metadata": (written({"__metadata__": {"a": 1}, "b": told([2], 0, 8)}, bytes(8)), "a damaged one"),
    "deep": (written(b'{"a":' + b"[" * 100_000), "its header is no JSON"),
    "no JSON": (written(b"{]"), "its header is no JSON"),
    "no text": (written(b'{"\xff":1}'), "its header is no JSON"),
    "a long number": (written(b'{"a":' + b"9" * 10_000 + b"}"), "its header is no JSON"),
    "a long name": (
        written({"x" * 2000: told([2], 0, 8)}, bytes(8)),
        "names of at most 1024 bytes, found one of 2,000",
    ),
    "a long header": (written(b"{" + b" " * (1 << 22)), "a safetensors header of at most 4,194,304 bytes"),
    "longer than the file": (written({"a": told([2], 0, 8)}, bytes(8), length=1 << 40), "another or damaged file"),
    "many tensors": (written({str(n): told([0], 0, 0) for n in range(20_001)}), "at most 20,000 tensors"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_held_against_the_file(tmp_path: Path, case: str) -> None:
    data, message = HEADERS[case]
    path = tmp_path / "c.safetensors"
    assert message in refusal(path, data)
    with pytest.raises(UserError) as caught:
        families.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -2.0])
    path = tmp_path / "c"
    path.write_bytes(written({"a": told([2], 0, 8), "empty": told([0, 1 << 40], 8, 8)}, values.numpy().tobytes()))
    read = untrusted.load(path).content
    assert torch.equal(read["a"], values)
    assert read["empty"].shape == (0, 1 << 40)
