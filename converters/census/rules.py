"""What a pickle of NumPy arrays may name and do, and the part of it that torch's pickles share."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Sequence
from typing import Any

from converters.census import limits
from converters.census.limits import Refused, clip, not_admitted, too_many
from converters.census.machine import Machine
from converters.census.things import Tally, Thing

ARRAY_NAMES = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.core.numeric._frombuffer": "array",
    "numpy._core.numeric._frombuffer": "array",
    "numpy.ndarray": "array",
    "numpy.dtype": "dtype",
    "numpy.core.multiarray.scalar": "number",
    "numpy._core.multiarray.scalar": "number",
}
"""Functions for arrays -> what they make. `converters.arrays` has a checking stand-in for each."""
ATTRIBUTES = {"_metadata", "moco_transfer"}
"""Of a state dict: torch's versions of modules, and the header of our files for torchvision."""
_BYTES_NAMES = ("_codecs.encode", "builtins.bytes", "builtins.bytearray")


class ArrayRules:
    """For pickles of NumPy arrays in builtin containers.

    Args:
        tally: counts that go on over several pickles.
        file_bytes: the size of the file, of which all arrays are made.
    """

    def __init__(self, tally: Tally, file_bytes: int) -> None:
        self._tally, self._file_bytes = tally, file_bytes
        self._filler = Machine(b"", self, tally)
        self._globals: dict[str, Thing] = {}

    def named(self, name: str) -> Thing:
        """A class or function that is admitted."""
        name = modern(name)
        if name not in self._globals:
            if not self.admits(name):
                raise not_admitted(name)
            self._globals[name] = Thing("global", 0, name=name)
        return self._globals[name]

    @property
    def names(self) -> set[str]:
        """What the pickles named."""
        return set(self._globals)

    def admits(self, name: str) -> bool:
        """Whether a pickle may name it."""
        return name in ARRAY_NAMES or name in _BYTES_NAMES or name == "collections.OrderedDict"

    def called(self, name: str, arguments: Thing) -> Any:
        """What a call makes. Arguments of the stand-ins for NumPy's functions are checked by these themselves."""
        if name in ARRAY_NAMES or name in _BYTES_NAMES:
            self._copied(arguments.parts)
        if name in ARRAY_NAMES:
            return Thing(ARRAY_NAMES[name])
        if name in _BYTES_NAMES:
            return self._bytes(name, arguments.parts)
        return self._ordered(arguments.parts)

    def _copied(self, parts: Sequence[Any]) -> None:
        """Count what an array is made of: the same few bytes could be asked for again and again."""
        for part in parts:
            if is_kind(part, "text", "bytes"):
                self._tally.copied += (part.weight - 1) * limits.MAX_NAME_BYTES
            elif type(part) in (str, bytes):
                self._tally.copied += len(part)
        if self._tally.copied > limits.MAX_SHARING * self._file_bytes:
            raise Refused(
                f"arrays of at most {limits.MAX_SHARING} times the file's {self._file_bytes:,} bytes", "more in all"
            )

    def _bytes(self, name: str, parts: Sequence[Any]) -> Thing:
        encoded = len(parts) == 2 and is_text(parts[0]) and parts[1] in ("latin1", "latin-1")
        plain = len(parts) == 1 and (type(parts[0]) is bytes or is_kind(parts[0], "bytes"))
        if name == "_codecs.encode":
            right = encoded
        elif name == "builtins.bytearray":
            right = encoded or plain or not parts
        else:
            right = not parts
        if not right:
            # bytearray(10**12) allocates, and a codec may do anything.
            raise Refused(f"bytes in a call of {name}", clip(parts[:3]))
        return Thing("bytes", 0, weight=getattr(parts[0], "weight", 1) if parts else 1)

    def _ordered(self, parts: Sequence[Any]) -> Thing:
        """`OrderedDict()`, or of a list of pairs, as Python 2 pickles it."""
        made = Thing("dict")
        if not parts:
            return made
        pairs = parts[0].parts if len(parts) == 1 and is_kind(parts[0], "list") else None
        if pairs is None or not all(is_kind(pair, "list", "tuple") and len(pair.parts) == 2 for pair in pairs):
            raise Refused("an OrderedDict of pairs", f"one of {clip(parts[:3])}")
        self._filler.fill(made, [pair.parts[0] for pair in pairs], [pair.parts[1] for pair in pairs])
        return made

    def restored(self, thing: Thing, state: Any) -> None:
        """A state, where the reader takes one: arrays and dtypes once, and the attributes of a state dict."""
        if thing.kind == "dict":
            # Whatever else lies in __dict__ would hide a method of the dictionary.
            if not is_kind(state, "dict") or (state.keys or set()) - ATTRIBUTES:
                raise Refused("an OrderedDict without attributes", "one with attributes")
            self._filler.place([state], thing)
            return
        if thing.kind not in ("array", "dtype") or thing.built or not is_kind(state, "tuple"):
            raise Refused("a state for what takes one", f"one for {thing!r}")
        if len(state.parts) > limits.MAX_ARGUMENTS:
            raise too_many("parts in an array's state", limits.MAX_ARGUMENTS)
        self._copied(state.parts)
        thing.built = True

    def persistent(self, identity: Any) -> Thing:
        """Nothing lies outside a pickle of arrays."""
        raise Refused("a pickle of arrays", f"one that refers to {clip(identity)} outside it")


def is_kind(value: Any, *kinds: str) -> bool:
    """Whether it is a `Thing` of one of these kinds."""
    return type(value) is Thing and value.kind in kinds


def is_text(value: Any) -> bool:
    """Whether it is a string, short or long."""
    return type(value) is str or is_kind(value, "text")


def modern(name: str) -> str:
    """Python 3's name of what Python 2 called otherwise, as torch's reader finds it."""
    module, _, last = name.rpartition(".")
    if (module, last) in NAME_MAPPING:
        module, last = NAME_MAPPING[module, last]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{last}"
