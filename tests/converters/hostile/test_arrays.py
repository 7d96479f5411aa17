"""Pickles of NumPy arrays: those of every NumPy and Python are read bit for bit, and claims are held against bytes."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters import untrusted
from tests.hostile import named, numbers, refusal, text

VALUES = np.arange(6, dtype="<f4")


def python_2(
    name: bytes = b"conv1_w", kind: bytes = b"f4", order: bytes = b"<", shape: tuple[int, ...] = (2, 3)
) -> bytes:
    """As Python 2's cPickle writes `{"blobs": {name: array}}` under protocol 2: strings of bytes, NumPy's old names."""

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = (
        named("numpy.dtype")
        + string(kind)
        + b"K\x00K\x01\x87R(K\x03"
        + string(order)
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
    )
    state = b"(K\x01" + numbers(*shape) + dtype + b"K\x00tb\x89" + string(VALUES.tobytes()) + b"tb"
    empty = (
        named("numpy.core.multiarray._reconstruct") + named("numpy.ndarray") + b"K\x00\x85" + string(b"b") + b"\x87R"
    )
    return b"\x80\x02}" + string(b"blobs") + b"}" + string(name) + empty + state + b"ss."


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    (tmp_path / "R-50.pkl").write_bytes(python_2())
    read = untrusted.load(tmp_path / "R-50.pkl").content
    assert list(read) == ["blobs"]
    assert list(read["blobs"]) == ["conv1_w"]
    array = read["blobs"]["conv1_w"]
    assert type(array) is np.ndarray
    assert array.dtype == np.float32
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


WRITTEN: dict[str, Any] = {
    "model": {
        "float": VALUES.reshape(2, 3),
        "columns": np.asfortranarray(VALUES.reshape(2, 3).astype(np.float64)),
        "half": VALUES.astype(np.float16),
        "counter": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
    },
    "scalar": np.float32(0.5),
    "__author__": "somebody",
    "matching_heuristics": True,
    "nested": [(VALUES, {"again": VALUES})],
    "data": b"\x00\xff" * 1000,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_bit_for_bit(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(WRITTEN, protocol=protocol))
    read = untrusted.load(path).content
    for name, array in WRITTEN["model"].items():
        found = read["model"][name]
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
        torch.from_numpy(found)  # warns where an array cannot be written to
    assert read["scalar"] == np.float32(0.5)
    assert read["nested"][0][1]["again"].tobytes() == VALUES.tobytes()
    assert read["data"] == WRITTEN["data"]


def test_arrays_of_an_old_numpy_are_read(tmp_path: Path) -> None:
    data = pickle.dumps({"x": VALUES}, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "c.pkl").write_bytes(data)
    assert untrusted.load(tmp_path / "c.pkl").content["x"].tobytes() == VALUES.tobytes()


@pytest.mark.parametrize("new", [True, False])
def test_arrays_beside_tensors_are_read(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "c.pth"
    torch.save(WRITTEN | {"tensor": torch.ones(2)}, path, _use_new_zipfile_serialization=new)
    read = untrusted.load(path).content
    assert type(read["model"]["columns"]) is np.ndarray
    assert np.array_equal(read["model"]["columns"], WRITTEN["model"]["columns"])
    assert torch.equal(read["tensor"], torch.ones(2))


def protocol_4(function: str, *arguments: bytes) -> bytes:
    """A pickle that is one call."""
    return b"\x80\x04}" + text("x") + named(function) + b"(" + b"".join(arguments) + b"tRs."


DATA = b"B" + struct.pack("<I", 8) + bytes(8)
ATTACKS: dict[str, tuple[bytes, str]] = {
    "a shape beyond the bytes": (
        python_2(shape=(1 << 20, 1 << 20)),
        "24 bytes for an array of shape (1048576, 1048576)",
    ),
    "a negative shape": (python_2(shape=(-2, -3)), "an array of shape (-2, -3)"),
    "too many dimensions": (python_2(shape=(6, *(1,) * 40)), "24 bytes for an array of shape"),
    "objects": (python_2(kind=b"O8", order=b"|"), "an array of O8"),
    "records": (python_2(kind=b"f4,f4"), "an array of f4,f4"),
    "a gigantic type": (python_2(kind=b"V2000000000", order=b"|"), "an array of V2000000000"),
    "big-endian": (python_2(order=b">"), "an array of >f4"),
    "complex": (python_2(kind=b"c8"), "an array of c8"),
    "a shape by its number": (
        protocol_4("numpy.ndarray", numbers(1 << 40), text("<f8"), DATA),
        "8 bytes for an array of shape (1099511627776,)",
    ),
    "no bytes": (protocol_4("numpy.ndarray", numbers(1), text("<f8"), b"N"), "an array of float64 over NoneType"),
    "another class": (
        protocol_4("numpy.core.multiarray._reconstruct", named("collections.OrderedDict"), numbers(0), text("b")),
        "an array of a class of its own",
    ),
    "a scalar of objects": (protocol_4("numpy.core.multiarray.scalar", text("O"), DATA), "an array of O"),
    "an array that allocates": (protocol_4("numpy.zeros", numbers(1 << 40)), "a pickled numpy.zeros"),
    "a tensor": (protocol_4("torch._utils._rebuild_tensor_v2"), "a pickled torch._utils._rebuild_tensor_v2"),
    "a namespace": (protocol_4("argparse.Namespace"), "a pickled argparse.Namespace"),
    "outside": (b"\x80\x02}" + text("x") + b"NQs.", "one that refers to None outside it"),
    "two pickles": (pickle.dumps({}) * 2, "more bytes after it"),
    "a state of many parts": (
        b"\x80\x02}" + text("x") + named("numpy.dtype") + text("f4") + b"\x85R(" + b"K\x01" * 65 + b"tbs.",
        "at most 64 parts in an array's state",
    ),
    "filled twice": (
        python_2()[:-3] + python_2()[python_2().index(b"(K\x01") : -3] + b"ss.",
        "a state for what takes one",
    ),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_an_array_holds_what_its_bytes_are(tmp_path: Path, case: str) -> None:
    data, message = ATTACKS[case]
    assert message in refusal(tmp_path / "c.pkl", data)
