"""A pickle of named arrays that needs nothing but `numpy.ndarray` to be read, and a reader that admits nothing else.

NumPy pickles its arrays through a private function whose module was renamed in NumPy 2, so a file of the newer cannot
be read by the older. Written as `numpy.ndarray(shape, dtype, buffer)`, it can be read by every NumPy.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from converters.errors import UserError


def write(content: object, path: Path) -> None:
    """Pickle `content` (arrays in builtin containers) to `path`."""
    with path.open("wb") as file:
        _Pickler(file, protocol=4).dump(content)


def read(path: Path) -> Any:
    """Unpickle a file that `write` made; of anything else no code is run.

    Raises:
        UserError: if the file is absent, damaged, or holds more than arrays, numbers and strings in builtin containers.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except OSError as error:
        raise UserError(expected="a readable file", found=error.strerror or str(error), where=path) from None
    except _NotAdmittedError as error:
        raise UserError(
            expected="arrays and plain data only", found=f"a pickled {error}, which is not run", where=path
        ) from None
    except Exception as error:
        # A damaged pickle can raise nearly anything from inside the unpickler; each means the same to the user.
        found = f"another or damaged file ({type(error).__name__}: {error})"
        raise UserError(expected="a pickle of arrays", found=found[:200], where=path) from None


class _NotAdmittedError(Exception):
    pass


def _array(shape: Any, dtype: Any, buffer: Any) -> Any:
    """`numpy.ndarray` of plain numbers over bytes that are really there: nothing is allocated."""
    kind = np.dtype(dtype)
    # Torch knows neither the other byte order nor numbers of more than 8 bytes.
    plain = kind.kind in "fiu" and kind.isnative and kind.itemsize <= 8
    if not plain or not isinstance(buffer, bytearray):
        raise TypeError(f"an array of {kind} over {type(buffer).__name__}")
    return np.frombuffer(buffer, kind).reshape(shape)


def _bytearray(content: bytes = b"") -> bytearray:
    """`bytearray` of bytes alone: of a number, it would allocate as many."""
    if not isinstance(content, bytes):
        raise TypeError(f"a bytearray of {type(content).__name__}")
    return bytearray(content)


_ADMITTED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _array, ("builtins", "bytearray"): _bytearray}


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            contiguous = np.ascontiguousarray(obj)
            # ascontiguousarray makes a vector of a scalar: the shape is the original's.
            return np.ndarray, (obj.shape, contiguous.dtype.str, bytearray(contiguous.tobytes()))
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _NotAdmittedError(f"{module}.{name}")
        return _ADMITTED[module, name]
