"""Pickles written operation by operation, and every container around them: files that no honest writer makes."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from converters import untrusted
from converters.errors import UserError

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch's format before 1.6 begins with."""
CONTAINERS = ("torch zip", "torch before 1.6", "pickle")


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    """LONG1."""
    data = value.to_bytes(12, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(name: str) -> bytes:
    """GLOBAL of `module.name`."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def pairs(*items: tuple[bytes, bytes]) -> bytes:
    """A dictionary."""
    return b"}(" + b"".join(key + value for key, value in items) + b"u"


def content(value: bytes) -> bytes:
    """A whole pickle of a dictionary with this value, under protocol 2."""
    return b"\x80\x02" + pairs((text("state_dict"), value)) + b"."


def storage(kind: str = "torch.FloatStorage", key: str = "0", items: int = 4, view: bytes | None = None) -> bytes:
    """A persistent id; `view` (b"N" for none) before torch 1.6."""
    inner = text("storage") + named(kind) + text(key) + text("cpu") + whole(items)
    return b"(" + inner + (view or b"") + b"tQ"


def numbers(*values: int) -> bytes:
    """A tuple of whole numbers."""
    return b"(" + b"".join(map(whole, values)) + b"t"


def tensor(of: bytes, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)) -> bytes:
    """`torch._utils._rebuild_tensor_v2` of a storage."""
    arguments = of + whole(offset) + numbers(*shape) + numbers(*strides) + b"\x89" + named("collections.OrderedDict")
    return named("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b")RtR"


def zipped(stream: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """torch's format since 1.6, by Python's zip writer."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", stream)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
        for key, data in (storages or {}).items():
            archive.writestr(f"a/data/{key}", data)
    return file.getvalue()


def legacy(stream: bytes, storages: dict[str, bytes] | None = None, item_bytes: int = 4) -> bytes:
    """torch's format before 1.6: five pickles, then for each storage the count of its values, and these."""
    storages = storages or {}
    version = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}."
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    values = b"".join(struct.pack("<q", len(data) // item_bytes) + data for data in storages.values())
    return MAGIC + version + system + stream + keys + values


def inside(container: str, stream: bytes) -> bytes:
    """A pickle without storages in a container."""
    return {"torch zip": zipped, "torch before 1.6": legacy, "pickle": bytes}[container](stream)


def refusal(path: Path, data: bytes) -> str:
    """What `untrusted.load` says of a file of these bytes: one line that begins with the file's name."""
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        untrusted.load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: expected ")
    assert "\n" not in line
    assert len(line) < 600
    return line
