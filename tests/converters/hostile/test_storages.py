"""Tensors and storages that claim what the file does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters import untrusted
from tests.hostile import content, legacy, named, refusal, storage, tensor, text, whole, zipped

FOUR = torch.arange(4, dtype=torch.float32).numpy().tobytes()

CLAIMS: dict[str, tuple[bytes, str]] = {
    "a gigantic storage": (tensor(storage(items=1 << 40)), "storages within the file's"),
    "a negative storage": (tensor(storage(items=-1)), "a storage's key, place and size"),
    "a size that overflows": (tensor(storage(items=1 << 62)), "storages within the file's"),
    "a gigantic shape": (tensor(storage(), shape=(1 << 40,)), "a tensor within its storage of 4 values"),
    "a shape one too large": (tensor(storage(), shape=(5,)), "a tensor within its storage of 4 values"),
    "a shape whose product overflows": (
        tensor(storage(), shape=(1 << 32, 1 << 32), strides=(1, 1)),
        "a tensor within its storage",
    ),
    "an offset behind the end": (tensor(storage(), offset=1), "a tensor within its storage of 4 values"),
    "a negative offset": (tensor(storage(), offset=-1), "a tensor's offset, shape and strides"),
    "a stride too far": (tensor(storage(), strides=(2,)), "a tensor within its storage of 4 values"),
    "a negative stride": (tensor(storage(), offset=3, strides=(-1,)), "a tensor's offset, shape and strides"),
    "a value shown often": (tensor(storage(), shape=(1 << 46,), strides=(0,)), "tensors within the file's"),
    "all values shown often": (
        b"(" + tensor(storage(), shape=(2000,), strides=(0,)) * 200 + b"t",
        "tensors of at most 8 times the file's",
    ),
    "too many dimensions": (tensor(storage(), shape=(1,) * 40, strides=(1,) * 40), "at most 16 dimensions"),
    "shape and strides of two lengths": (tensor(storage(), strides=(1, 1)), "a tensor's offset, shape and strides"),
    "complex numbers": (tensor(storage("torch.ComplexFloatStorage")), "a pickled torch.ComplexFloatStorage"),
    "quantized numbers": (tensor(storage("torch.QInt8Storage")), "a pickled torch.QInt8Storage"),
    "no storage": (tensor(b"N"), "a tensor of a storage"),
    "one storage of two sizes": (
        b"(" + tensor(storage()) + tensor(storage(items=3), shape=(3,)) + b"t",
        "one meaning of the storage '0'",
    ),
    "one storage of two types": (
        b"(" + tensor(storage()) + tensor(storage("torch.LongStorage"), shape=(2,)) + b"t",
        "one meaning of the storage '0'",
    ),
    "another reference": (b"(" + text("module") + b"NNNtQ", "references to storages only"),
    "an allocation": (named("torch.FloatTensor") + whole(10**12) + b"\x85R", "a pickled torch.FloatTensor"),
    "a call of a type": (named("torch.FloatStorage") + whole(10**12) + b"\x85R", "a call of torch.FloatStorage"),
    "a size that is none": (named("torch.Size") + whole(10**12) + b"\x85R", "plain arguments of torch.Size"),
    "a hook": (
        named("torch._utils._rebuild_tensor_v2")
        + b"("
        + storage()
        + whole(0)
        + whole(4)
        + b"\x85"
        + whole(1)
        + b"\x85\x89"
        + b"}"
        + text("hook")
        + b"NstR",
        "a tensor without hooks and flags",
    ),
    "a flag": (
        named("torch._utils._rebuild_tensor_v2")
        + b"("
        + storage()
        + whole(0)
        + whole(4)
        + b"\x85"
        + whole(1)
        + b"\x85\x89"
        + b"}"
        + b"}"
        + text("neg")
        + b"\x88stR",
        "a tensor without hooks and flags",
    ),
    "a meta tensor": (named("torch._utils._rebuild_meta_tensor_no_storage") + b")R", "which is not run"),
    "a sparse tensor": (named("torch._utils._rebuild_sparse_tensor") + b")R", "which is not run"),
}


def before(operations: bytes) -> bytes:
    """The same with a view's place, which persistent ids had before torch 1.6."""
    return operations.replace(b"tQ", b"NtQ")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("case", CLAIMS)
def test_a_claim_beyond_the_file_is_refused(tmp_path: Path, case: str, old: bool) -> None:
    operations, message = CLAIMS[case]
    data = legacy(content(before(operations)), {"0": FOUR}) if old else zipped(content(operations), {"0": FOUR})
    line = refusal(tmp_path / "c.pth", data)
    if case != "another reference" or not old:
        assert message in line


@pytest.mark.parametrize("old", [False, True])
def test_what_is_within_the_file_is_read(tmp_path: Path, old: bool) -> None:
    operations = tensor(storage(), offset=1, shape=(3,))
    data = legacy(content(before(operations)), {"0": FOUR}) if old else zipped(content(operations), {"0": FOUR})
    (tmp_path / "c.pth").write_bytes(data)
    assert torch.equal(untrusted.load(tmp_path / "c.pth").content["state_dict"], torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("storages", "message"),
    [
        ({}, "an entry of 16 bytes for the storage '0', found none"),
        ({"0": FOUR[:8]}, "an entry of 16 bytes for the storage '0', found one of 8"),
        ({"0": FOUR * 2}, "an entry of 16 bytes for the storage '0', found one of 32"),
    ],
)
def test_an_archive_must_hold_its_storages(tmp_path: Path, storages: dict[str, bytes], message: str) -> None:
    assert message in refusal(tmp_path / "c.pth", zipped(content(tensor(storage())), storages))


@pytest.mark.parametrize("name", ["../version", "0/../../version"])
def test_a_storage_lies_in_the_archives_data(tmp_path: Path, name: str) -> None:
    line = refusal(tmp_path / "c.pth", zipped(content(tensor(storage("torch.ByteStorage", name, 2), shape=(2,)))))
    assert "found none" in line


OLD: dict[str, tuple[bytes, str]] = {
    "truncated": (legacy(content(before(tensor(storage()))), {"0": FOUR})[:-4], "the file is truncated"),
    "more at the end": (legacy(content(before(tensor(storage()))), {"0": FOUR}) + b"x", "1 more bytes"),
    "another count": (
        legacy(content(before(tensor(storage()))), {"0": FOUR}, item_bytes=8),
        "expected 4 values in the storage '0', found 2",
    ),
    "no storage": (legacy(content(before(tensor(storage())))), "expected a list of the storages after the pickle"),
    "a storage too many": (legacy(content(b"N"), {"0": FOUR}), "expected a list of the storages after the pickle"),
    "a storage twice": (
        legacy(content(before(tensor(storage()))), {"0": FOUR}).replace(
            b"\x80\x02](" + text("0"), b"\x80\x02](" + text("0") * 2
        ),
        "expected a list of the storages after the pickle",
    ),
    "a view too long": (
        legacy(content(tensor(storage(view=text("1") + whole(2) + whole(3) + b"\x87"), shape=(3,))), {"0": FOUR}),
        "expected a view within its 4 values, found 3 from 2",
    ),
    "another version": (legacy(content(b"N")).replace(b"M\xe9\x03", b"M\xe9\x04"), "expected torch's format 1001"),
}


@pytest.mark.parametrize("case", OLD)
def test_the_format_before_1_6_is_held_against_its_bytes(tmp_path: Path, case: str) -> None:
    data, message = OLD[case]
    assert message in refusal(tmp_path / "c.pth", data)


def test_a_view_of_the_format_before_1_6_is_read(tmp_path: Path) -> None:
    view = text("1") + whole(2) + whole(2) + b"\x87"
    (tmp_path / "c.pth").write_bytes(legacy(content(tensor(storage(view=view), shape=(2,))), {"0": FOUR}))
    assert torch.equal(untrusted.load(tmp_path / "c.pth").content["state_dict"], torch.tensor([2.0, 3.0]))


def test_a_checkpoint_that_is_a_tar_archive_too_is_refused(tmp_path: Path) -> None:
    values = bytearray(legacy(content(before(tensor(storage(items=200), shape=(200,)))), {"0": bytes(800)}))
    assert len(values) > 512
    # A tar header's checksum, over its first 512 bytes with its own field blank.
    head = values[:512]
    head[148:156] = b" " * 8
    values[148:156] = b"%06o\0 " % sum(head)
    refusal(tmp_path / "c.pth", bytes(values))


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    data = zipped(content(tensor(storage())), {"0": FOUR}).replace(b"little", b"bigbig")
    assert "expected little-endian numbers" in refusal(tmp_path / "c.pth", data)
