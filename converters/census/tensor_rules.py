"""What torch's pickles may name and do: tensors over storages that lie in the same file, and plain data.

Sources: pytorch/pytorch, torch/_utils.py (the functions that rebuild), torch/serialization.py (persistent ids) and
torch/_weights_only_unpickler.py, which admits more than a checkpoint needs: sparse, quantized and meta tensors, whose
claims are not bounded by the file, and calls such as `torch.Tensor(10**12)` that allocate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converters.census import limits
from converters.census.limits import Refused, clip, too_many
from converters.census.rules import ArrayRules, is_kind, is_text
from converters.census.things import Tally, Thing

ITEM_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
"""Storage types of torch -> bytes a value. Complex and quantized ones are in no backbone."""
_STORAGES = {f"{module}.{kind}Storage": size for kind, size in ITEM_BYTES.items() for module in ("torch", "torch.cuda")}
_DTYPES = {
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_REBUILD = {"torch._utils._rebuild_tensor": 4, "torch._utils._rebuild_tensor_v2": 6}
"""Functions that rebuild a tensor -> how many arguments they need."""
_PARAMETER = "torch._utils._rebuild_parameter"
_PLAIN = {
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "torch.Size",
    "torch.device",
}

# Their modules have functions too: a call of one is shown by its name.
_PATHS = {
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
}
_TIMES = {f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")}
STAND_INS = ("argparse.", "lightning.", "lightning_fabric.", "mmengine.", "omegaconf.", "pytorch_lightning.", "typing.")
"""Packages whose classes stand beside the weights in many checkpoints: hyper-parameters and logs. None of their code is
run: an empty object of ours stands for each, so that the weights can be read."""
_STAND_IN_NAMES = {"collections.defaultdict", "builtins.getattr", *_PATHS, *_TIMES} | {
    f"builtins.{name}"
    for name in (
        "bool",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "slice",
        "str",
        "tuple",
        "type",
    )
}
DICTIONARIES = ("AttributeDict", "ConfigDict", "defaultdict")
"""Classes that are dictionaries with a convenience: a plain one stands for them."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What a pickle says of a storage."""

    item_bytes: int
    items: int
    view_of: str = ""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.item_bytes * self.items


class TensorRules(ArrayRules):
    """For torch's pickles, of both formats.

    Args:
        tally: counts that go on over several pickles.
        file_bytes: the size of the file, in which all storages must have room.
        views: whether a persistent id has a view's place, as it had before torch 1.6.
    """

    def __init__(self, tally: Tally, file_bytes: int, *, views: bool) -> None:
        super().__init__(tally, file_bytes)
        self._views = views
        self.storages: dict[str, Storage] = {}
        """By key."""
        self.stand_ins: set[str] = set()
        """Names that an object of ours must stand for."""
        self._tensors = 0
        self._claimed = 0

    def admits(self, name: str) -> bool:
        """Whether a pickle may name it."""
        if name.startswith(STAND_INS) or name in _STAND_IN_NAMES:
            self.stand_ins.add(name)
            if len(self.stand_ins) > limits.MAX_STAND_INS:
                raise too_many("classes of hyper-parameters and logs", limits.MAX_STAND_INS)
            return True
        known = name in _STORAGES or name in _DTYPES or name in _REBUILD or name in _PLAIN or name == _PARAMETER
        return known or super().admits(name)

    def called(self, name: str, arguments: Thing) -> Any:
        """What a call makes."""
        parts = arguments.parts
        if name in _REBUILD:
            return self._tensor(name, parts)
        if name == _PARAMETER:
            if len(parts) != 3 or not is_kind(parts[0], "tensor") or type(parts[1]) is not bool or not _empty(parts[2]):
                raise Refused("a parameter of a tensor", clip(parts[:3]))
            return Thing("tensor")
        if name in self.stand_ins:
            return Thing("dict") if is_dictionary(name) else Thing("stand-in", name=name)
        if name in _PLAIN:
            return self._plain(name, arguments)
        if name in _STORAGES or name in _DTYPES:
            raise Refused("a type beside data", f"a call of {name}")
        return super().called(name, arguments)

    def restored(self, thing: Thing, state: Any) -> None:
        """A state, where the reader takes one; a stand-in keeps none."""
        if thing.kind != "stand-in":
            super().restored(thing, state)

    def _plain(self, name: str, arguments: Thing) -> Any:
        parts = arguments.parts
        if name == "collections.Counter":
            right = not parts or (len(parts) == 1 and is_kind(parts[0], "dict"))
            self._filler.count_names(len(parts[0].keys or ()) if right and parts else 0)
            made = Thing("dict", depth=arguments.depth, weight=arguments.weight)
        elif name == "builtins.set":
            right = not parts or (len(parts) == 1 and is_kind(parts[0], "list"))
            for key in parts[0].parts if right and parts else ():
                self._filler.key(key)
            made = Thing("set", depth=arguments.depth, weight=arguments.weight)
        elif name == "torch.Size":
            shape = _whole_numbers(parts[0]) if len(parts) == 1 else None
            right = shape is not None and len(shape) <= limits.MAX_DIMENSIONS
            made = Thing("size")
        elif name == "torch.device":
            right = len(parts) > 0 and type(parts[0]) is str and all(type(part) is int for part in parts[1:])
            made = Thing("device")
        else:
            right = len(parts) == 2 and all(type(part) is float for part in parts)
            made = Thing("number")
        if not right:
            raise Refused(f"plain arguments of {name}", clip(parts[:3]))
        return made

    # Storages and tensors

    def persistent(self, identity: Any) -> Thing:
        """A storage: ("storage", type, key, location, items[, view])."""
        parts: Sequence[Any] = identity.parts if is_kind(identity, "tuple") else ()
        if len(parts) != 5 + self._views or parts[0] not in ("storage", b"storage"):
            raise Refused("references to storages only", clip(identity))
        kind, key, location, items = parts[1:5]
        if not is_kind(kind, "global") or kind.name not in _STORAGES:
            raise Refused("a storage of floats, integers or booleans", clip(kind))
        if type(key) is not str or not is_text(location) or type(items) is not int or items < 0:
            raise Refused("a storage's key, place and size", clip(parts[2:5]))
        storage = self._known(key, Storage(_STORAGES[kind.name], items))
        if self._views and parts[5] is not None:
            storage = self._view(key, storage, parts[5])
        return Thing("storage", parts=(storage,))

    def _known(self, key: str, storage: Storage) -> Storage:
        if storage.size > self._file_bytes:
            raise Refused(f"storages within the file's {self._file_bytes:,} bytes", f"one of {storage.size:,}")
        known = self.storages.setdefault(key, storage)
        # Empty storages share a key under several types.
        if known != storage and (known.size or storage.size):
            raise Refused(f"one meaning of the storage {clip(key)}", f"{known.size:,} and {storage.size:,} bytes")
        if len(self.storages) > limits.MAX_TENSORS:
            raise too_many("storages", limits.MAX_TENSORS)
        return storage

    def _view(self, key: str, storage: Storage, view: Any) -> Storage:
        parts: Sequence[Any] = view.parts if is_kind(view, "tuple") else ()
        if len(parts) != 3 or type(parts[0]) is not str or not all(type(n) is int and n >= 0 for n in parts[1:]):
            raise Refused("a view's key, offset and size", clip(view))
        name, offset, items = parts
        if offset + items > storage.items:
            raise Refused(f"a view within its {storage.items:,} values", f"{items:,} from {offset:,}")
        return self._known(name, Storage(storage.item_bytes, items, view_of=key))

    def _tensor(self, name: str, parts: Sequence[Any]) -> Thing:
        if len(parts) < _REBUILD[name] or not is_kind(parts[0], "storage"):
            raise Refused("a tensor of a storage", clip(parts[:3]))
        storage: Storage = parts[0].parts[0]
        offset, shape, strides = parts[1], _whole_numbers(parts[2]), _whole_numbers(parts[3])
        if type(offset) is not int or offset < 0 or shape is None or strides is None or len(shape) != len(strides):
            raise Refused("a tensor's offset, shape and strides", clip(parts[1:4]))
        if len(shape) > limits.MAX_DIMENSIONS:
            raise Refused(f"tensors of at most {limits.MAX_DIMENSIONS} dimensions", str(len(shape)))
        # Gradients' hooks are called, and flags change what values mean.
        if len(parts) > 4 and (len(parts) > 7 or type(parts[4]) is not bool or not all(map(_empty, parts[5:]))):
            raise Refused("a tensor without hooks and flags", clip(parts[4:8]))
        items = math.prod(shape)
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if (items and reach > storage.items) or offset > storage.items:
            raise Refused(f"a tensor within its storage of {storage.items:,} values", f"one of shape {clip(shape)}")
        self._count(items * storage.item_bytes, shape)
        return Thing("tensor")

    def _count(self, claimed: int, shape: tuple[int, ...]) -> None:
        self._tensors += 1
        self._claimed += claimed
        if self._tensors > limits.MAX_TENSORS:
            raise too_many("tensors", limits.MAX_TENSORS)
        if claimed > self._file_bytes:
            raise Refused(f"tensors within the file's {self._file_bytes:,} bytes", f"one of shape {clip(shape)}")
        if self._claimed > limits.MAX_SHARING * self._file_bytes:
            raise Refused(
                f"tensors of at most {limits.MAX_SHARING} times the file's {self._file_bytes:,} bytes", "more in all"
            )


def is_dictionary(name: str) -> bool:
    """Whether a plain dictionary stands for this class."""
    return name.rpartition(".")[2] in DICTIONARIES or name == "builtins.dict"


def _empty(value: Any) -> bool:
    return value is None or (is_kind(value, "dict") and not value.keys)


def _whole_numbers(value: Any) -> tuple[int, ...] | None:
    if not is_kind(value, "tuple", "list") or not all(type(part) is int and part >= 0 for part in value.parts):
        return None
    return tuple(value.parts)
