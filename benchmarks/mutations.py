"""Valid small files of every container, and seeded ways to damage them: what the fuzzer and its test feed the reader.

A case is told by its number and a seed alone. Damage is done to the bytes of the file, and where a pickle lies in a zip
archive also to the pickle, with a valid archive made around it again, so that the damage is met behind the first check.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors


@dataclass(frozen=True)
class Sample:
    """A valid file."""

    name: str
    data: bytes
    pickle: bytes = b""
    """The pickle within it."""
    around: Callable[[bytes], bytes] | None = None
    """A pickle -> a file with it in place of this one's."""
    operations: list[int] = field(default_factory=list)
    """Where the pickle's operations start."""


def _content() -> dict[str, Any]:
    torch.manual_seed(0)
    state = OrderedDict(
        (f"module.encoder_q.layer1.0.{name}", torch.randn(2, 3)) for name in ("conv1.weight", "bn1.bias")
    )
    state["module.encoder_q.fc.weight"] = torch.nn.Parameter(torch.randn(4))
    state["module.queue"] = state["module.encoder_q.layer1.0.conv1.weight"].t()
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.long)
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(2)}}, "param_groups": [{"lr": 0.03, "params": [0]}]},
        "best": np.float32(0.5),
        "history": np.arange(3),
    }


def _zip_around(data: bytes) -> Callable[[bytes], bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]

    def around(stream: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries:
                archive.writestr(name, stream if name.endswith("/data.pkl") else content)
        return file.getvalue()

    return around


def _operations(stream: bytes) -> list[int]:
    positions: list[int] = []
    file = io.BytesIO(stream)
    # The format before torch 1.6 has several pickles, one after the other, and then values.
    while stream[file.tell() : file.tell() + 1] == b"\x80":
        positions += [at for _, _, at in pickletools.genops(file) if at is not None]
    return positions


def samples() -> list[Sample]:
    """One of every container, a few kB each."""
    content = _content()
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(new) as archive:
        stream = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    tensors = {f"layer1.{i}.weight": torch.randn(2, 3) for i in range(4)}
    arrays = {"model": {name: value.numpy() for name, value in tensors.items()}, "__author__": "x"}
    found = [
        Sample("torch", new.getvalue(), stream, _zip_around(new.getvalue())),
        Sample("torch before 1.6", old.getvalue(), old.getvalue()),
        Sample("safetensors", save_safetensors(tensors, {"format": "pt"})),
    ]
    for protocol in (2, 4, 5):
        written = pickle.dumps(arrays, protocol=protocol)
        found.append(Sample(f"pickle, protocol {protocol}", written, written))
    python_2 = _python_2_pickle()
    found.append(Sample("pickle of Python 2", python_2, python_2))
    return [
        Sample(one.name, one.data, one.pickle, one.around, _operations(one.pickle) if one.pickle else [])
        for one in found
    ]


def _python_2_pickle() -> bytes:
    """As Python 2's cPickle writes a dict of arrays under protocol 2, the strings of bytes."""
    values = np.arange(6, dtype="<f4").tobytes()
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731 - one line a line of the pickle
    return (
        b"\x80\x02}q\x01"
        + text(b"blobs")
        + b"}q\x02("
        + text(b"conv1_w")
        + b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        + text(b"b")
        + b"\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06"
        + text(b"f4")
        + b"K\x00K\x01\x87Rq\x07(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + text(values)
        + b"tbus."
    )


_NUMBERS = [
    0,
    1,
    127,
    128,
    255,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 62),
    (1 << 64) - 1,
]
_CODES = [operation.code.encode("latin1") for operation in pickletools.opcodes]


def payloads(canary: str) -> list[bytes]:
    """Parts of pickles that would make a file called `canary`, or allocate, if they were let."""
    shell = f"touch {canary}".encode()
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731 - as above
    number = b"\x8a\x06" + (10**12).to_bytes(6, "little")
    return [
        b"cposix\nsystem\n" + text(shell) + b"\x85R",
        b"c__builtin__\neval\n" + text(f"open({canary!r}, 'w')".encode()) + b"\x85R",
        b"csubprocess\nPopen\n" + text(shell) + b"\x85R",
        b"cbuiltins\nexec\n" + text(f"open({canary!r}, 'w')".encode()) + b"\x85R",
        b"(i__main__\nx\n",
        b"c__builtin__\nbytearray\n" + number + b"\x85R",
        b"ctorch\nTensor\n" + number + b"\x85R",
        b"ctorch.storage\nUntypedStorage\n" + number + b"\x85R",
        b"cnumpy\nzeros\n" + number + b"\x85R",
        b"cnumpy\nndarray\n" + number + b"\x85" + text(b"f8") + b"C\x00\x87R",
        b"r\xff\xff\xff\x7f",
        b"(" * 5000,
        b")" + b"\x85" * 5000,
        b"]" + b"]\x94h\x00a" * 50,
        b"\x82\x01",
        b"2" * 100,
    ]


def mutate(sample: Sample, other: Sample, chance: random.Random, canary: str) -> tuple[str, bytes]:
    """How a file was damaged, and the result."""
    inner = bool(sample.around) and chance.random() < 0.5
    data = bytearray(sample.pickle if inner else sample.data)
    kinds = ["flip", "flip", "truncate", "number", "number", "splice", "repeat", "delete", "append"]
    if sample.operations and (inner or not sample.around):
        kinds += ["operation", "operation", "payload", "argument", "argument"]
    kind = chance.choice(kinds)
    at = chance.randrange(len(data))
    size = min(chance.choice([1, 2, 4, 8, 16, 64, 256]), len(data) - at)
    match kind:
        case "flip":
            for _ in range(chance.choice([1, 1, 1, 2, 8])):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "truncate":
            del data[at:]
        case "number":
            width = chance.choice([1, 2, 4, 8])
            value = chance.choice(_NUMBERS) & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, "little")
        case "splice":
            start = chance.randrange(len(other.data))
            data[at : at + size] = other.data[start : start + size]
        case "repeat":
            data[at:at] = data[at : at + size] * chance.choice([1, 2, 100])
        case "delete":
            del data[at : at + size]
        case "append":
            data += other.data[: chance.choice([1, 64, len(other.data)])]
        case "operation":
            data[chance.choice(sample.operations)] = chance.choice(_CODES)[0]
        case "payload":
            where = chance.choice(sample.operations[1:])
            data[where:where] = chance.choice(payloads(canary))
        case "argument":
            where = chance.choice(sample.operations) + 1 + chance.choice([0, 0, 0, 1, 3])
            data[where : where + 1] = bytes([chance.choice([0, 1, 2, 127, 128, 255])])
    name = f"{kind} in the pickle" if inner else kind
    return name, sample.around(bytes(data)) if inner and sample.around else bytes(data)
