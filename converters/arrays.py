"""A pickle of named arrays that needs nothing but `numpy.ndarray` to be read, and a reader that admits nothing else.

NumPy pickles its arrays through a private function whose module was renamed in NumPy 2, so a file of the newer cannot
be read by the older. Written as `numpy.ndarray(shape, dtype, buffer)`, it can be read by every NumPy.

The reader never calls NumPy's own functions on a stranger's arguments: each is replaced by one of ours, which allows
plain numbers over bytes that are really in the file. See `ADMITTED`; torch's reader is given the same.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

MAX_DIMENSIONS = 16
"""Of an array. A backbone's have 4 at most."""

_KINDS = {
    prefix + code: np.dtype(code)
    for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
    for prefix in ("", "<", "|", "=")
}
"""What an array may hold: numbers that torch knows, in this machine's byte order. A string of a stranger is looked up
here, and never parsed by NumPy, for which a few letters can mean a record of gigabytes."""


class NotAdmittedError(Exception):
    """A pickle asks for what is not admitted; the message is its name."""


class ArrayError(Exception):
    """An array is none of plain numbers, or not of the bytes that are there; the message says what it is."""


def write(content: object, path: Path) -> None:
    """Pickle `content` (arrays in builtin containers) to `path`."""
    with path.open("wb") as file:
        _Pickler(file, protocol=4).dump(content)


def load(file: BufferedIOBase) -> Any:
    """Unpickle arrays, numbers and strings in builtin containers. Strings of Python 2 are taken as latin-1.

    The pickle must have passed `converters.census` before: this reader keeps code from running, and the census keeps
    the interpreter from what a pickle's own operations do to it.

    Raises:
        NotAdmittedError: for anything else in the pickle.
        ArrayError: for arrays of other things than numbers, or of another size than they say.
        Exception: nearly any other, for a damaged pickle.
    """
    return plain(_Unpickler(file, encoding="latin1").load())


def plain(content: Any) -> Any:
    """The same containers, with arrays of NumPy's own class in them."""
    # A class of its own is needed only while NumPy's pickles are rebuilt. Nesting is bounded by the census.
    if isinstance(content, _Rebuilt):
        return content.view(np.ndarray)
    if isinstance(content, dict):
        for key, value in content.items():
            content[key] = plain(value)
    elif isinstance(content, list):
        content[:] = map(plain, content)
    elif type(content) is tuple:
        return tuple(map(plain, content))
    return content


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            contiguous = np.ascontiguousarray(obj)
            # ascontiguousarray makes a vector of a scalar: the shape is the original's.
            return np.ndarray, (obj.shape, contiguous.dtype.str, bytearray(contiguous.tobytes()))
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ADMITTED:
            raise NotAdmittedError(f"{module}.{name}")
        return ADMITTED[f"{module}.{name}"]


class _Kind:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.dtype = _kind(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subtype, field names, fields, item size, alignment, flags): numpy/core/src/multiarray/
        # descriptor.c. Of a plain number the fields are empty and only the byte order counts.
        order = state[1]
        if order not in ("<", "=", "|") or any(part is not None for part in state[2:5]):
            raise ArrayError(f"an array of {order}{self.dtype.str[1:]}")


def _kind(code: Any) -> np.dtype[Any]:
    if isinstance(code, _Kind):
        return code.dtype
    if not isinstance(code, str) or code not in _KINDS:
        raise ArrayError(f"an array of {code if isinstance(code, str) else type(code).__name__}"[:60])
    return _KINDS[code]


def _checked(data: Any, kind: Any, shape: Any) -> tuple[bytes | bytearray, np.dtype[Any], tuple[int, ...]]:
    """Plain numbers, and exactly the bytes that their shape takes."""
    dtype = _kind(kind)
    if isinstance(data, str):  # Python 2's
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ArrayError(f"an array of {dtype} over {type(data).__name__}")
    shape = (shape,) if type(shape) is int else shape
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise ArrayError(f"an array of shape {str(shape)[:60]}")
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * dtype.itemsize != len(data):
        raise ArrayError(f"{len(data)} bytes for an array of shape {str(shape)[:60]} of {dtype}")
    return data, dtype, shape


def _over(data: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray[Any, Any]:
    """An array over bytes that are really there; a copy where they cannot be written to."""
    data, dtype, shape = _checked(data, kind, shape)
    flat = np.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _array(shape: Any, dtype: Any, buffer: Any) -> np.ndarray[Any, Any]:
    """Stands for `numpy.ndarray`, called as `write` lets it be called."""
    return _over(buffer, dtype, shape)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """Stands for `numpy.core.numeric._frombuffer`, by which arrays are pickled under protocol 5."""
    return _over(data, dtype, shape, order)


def _scalar(dtype: Any, data: Any) -> Any:
    """Stands for `numpy.core.multiarray.scalar`."""
    return _over(data, dtype, ())[()]


class _Rebuilt(np.ndarray[Any, Any]):
    """An array whose content comes after it, as NumPy pickles it: `plain` makes an ordinary one of it."""

    def __setstate__(self, state: Any) -> None:
        # (version, shape, dtype, Fortran order, bytes): numpy/core/src/multiarray/methods.c, array_setstate.
        _, shape, dtype, fortran, data = state
        data, dtype, shape = _checked(data, dtype, shape)
        # The stubs ask for a flag of NumPy's own type, which NumPy refuses.
        whole: Any = (1, shape, dtype, fortran in (True, 1), bytes(data))
        super().__setstate__(whole)


def _reconstruct(kind: Any, _shape: Any, _code: Any) -> _Rebuilt:
    """Stands for `numpy.core.multiarray._reconstruct`: an empty array, filled by `__setstate__`."""
    if kind is not _array:
        raise ArrayError("an array of a class of its own")
    return np.ndarray.__new__(_Rebuilt, (0,), np.int8)


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    """`bytearray` of bytes alone: of a number, it would allocate as many."""
    return bytearray(_bytes(content, encoding) if isinstance(content, str) else _all_bytes(content))


def _no_bytes() -> bytes:
    """Stands for `bytes`, as which protocol 2 pickles an empty one."""
    return b""


def _all_bytes(content: Any) -> bytes:
    if not isinstance(content, bytes):
        raise ArrayError(f"a bytearray of {type(content).__name__}")
    return content


def _bytes(content: Any, encoding: Any) -> bytes:
    """Stands for `_codecs.encode`, by which protocol 2 pickles bytes; other codecs transform or import."""
    if not isinstance(content, str) or encoding not in ("latin1", "latin-1"):
        raise ArrayError(f"bytes of {type(content).__name__} in {encoding!r}"[:60])
    return content.encode("latin1")


ARRAY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _array,
    "numpy.dtype": _Kind,
    # NumPy 2 renamed numpy.core.
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
"""Names in pickles -> what stands for them, for arrays."""

REBUILT: type = _Rebuilt
"""What torch's reader must be told of, besides: the class of an array that is being rebuilt."""

ADMITTED: dict[str, Callable[..., Any]] = {
    **ARRAY_FUNCTIONS,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _no_bytes,
    # Protocol 2 names Python 2's module.
    "__builtin__.bytearray": _bytearray,
    "__builtin__.bytes": _no_bytes,
    "_codecs.encode": _bytes,
    "collections.OrderedDict": OrderedDict,
}
"""All that a pickle of arrays may name."""
