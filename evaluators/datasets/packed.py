"""torchvision's data sets that keep all images in a few files: CIFAR-10 and -100, STL-10, SVHN (without `extra`).

CIFAR's files are pickles. They are read as any stranger's: a census of their bytes first, then a reader that admits
nothing but arrays, numbers and strings, so that no code in them can run.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters import arrays
from converters.census.limits import Refused
from converters.census.machine import Machine
from converters.census.rules import ArrayRules
from converters.census.things import Tally
from converters.errors import UserError
from evaluators.datasets.annotated import matlab
from evaluators.datasets.assemble import Listed, absent, assemble, lines_of
from evaluators.datasets.labelled import LabelledImages

PLACES: dict[str, tuple[tuple[str, ...], str]] = {
    "CIFAR-10": (("cifar-10-batches-py",), "batches.meta"),
    "CIFAR-100": (("cifar-100-python",), "meta"),
    "STL-10": (("stl10_binary",), "train_y.bin"),
    "SVHN": ((), "train_32x32.mat"),
}
"""As `evaluators.datasets.annotated.PLACES`."""
_STL_SIDE, _CIFAR_SIDE = 96, 32


@dataclass(frozen=True)
class _Pixels:
    """Images by their index."""

    values: NDArray[np.uint8]
    """N×H×W×3."""

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.values[index]))


def cifar10(root: Path, base: Path) -> LabelledImages:
    """CIFAR-10: 50,000 and 10,000 images of 32×32 pixels in 10 classes."""
    batches = tuple(f"data_batch_{number}" for number in range(1, 6))
    return _cifar(root, base, _Cifar("cifar-10", batches, "test_batch", "labels", "batches.meta", "label_names"))


def cifar100(root: Path, base: Path) -> LabelledImages:
    """CIFAR-100, its 100 fine classes."""
    return _cifar(root, base, _Cifar("cifar-100", ("train",), "test", "fine_labels", "meta", "fine_label_names"))


def stl10(root: Path, base: Path) -> LabelledImages:
    """STL-10: 5,000 and 8,000 images of 96×96 pixels in 10 classes; its unlabelled images are left out."""
    files = {name: base / f"{name}.bin" for name in ("train_X", "train_y", "test_X", "test_y")}
    for path in files.values():
        if not path.is_file() or not path.stat().st_size:
            raise UserError(expected="a file of STL-10", found="none", where=path, cure="unpack the data set again")
    size = 3 * _STL_SIDE**2

    def listed(split: str) -> Listed:
        labels = np.fromfile(files[f"{split}_y"], dtype=np.uint8).astype(np.int64) - 1
        path = files[f"{split}_X"]
        if path.stat().st_size != len(labels) * size:
            raise UserError(
                expected=f"{len(labels) * size} bytes for {len(labels)} images of {_STL_SIDE}x{_STL_SIDE} pixels",
                found=str(path.stat().st_size),
                where=path,
                cure="unpack the data set again",
            )
        # Column by column, as MATLAB writes them: colours, then x, then y.
        columns = np.memmap(path, dtype=np.uint8, mode="r", shape=(len(labels), 3, _STL_SIDE, _STL_SIDE))
        return _numbered(path, labels, columns.transpose(0, 3, 2, 1))

    classes = lines_of(base / "class_names.txt") if (base / "class_names.txt").is_file() else None
    names = classes or [str(number) for number in range(10)]
    return assemble(root, "stl10", names, listed("train"), listed("test"), annotations=files.values())


def svhn(root: Path, base: Path) -> LabelledImages:
    """SVHN, cropped digits: 73,257 and 26,032 images of 32×32 pixels; the label 10 means the digit 0."""
    files = {split: base / f"{split}_32x32.mat" for split in ("train", "test")}

    def listed(split: str) -> Listed:
        content = matlab(files[split], "X", "y")
        pixels, labels = content["X"], content["y"].ravel().astype(np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
            raise UserError(
                expected=f"{len(labels)} images of 32x32 pixels in X", found=str(pixels.shape), where=files[split]
            )
        return _numbered(files[split], np.where(labels == 10, 0, labels), pixels.transpose(3, 0, 1, 2))

    digits = [str(digit) for digit in range(10)]
    return assemble(root, "svhn", digits, listed("train"), listed("test"), annotations=files.values())


READERS: dict[str, Callable[[Path, Path], LabelledImages]] = {
    "CIFAR-10": cifar10,
    "CIFAR-100": cifar100,
    "STL-10": stl10,
    "SVHN": svhn,
}
"""As `evaluators.datasets.annotated.READERS`."""


@dataclass(frozen=True)
class _Cifar:
    """Where the two differ."""

    layout: str
    train: tuple[str, ...]
    test: str
    labels: str
    """The key of a batch's labels."""
    meta: str
    names: str
    """The key of the class names in `meta`."""


def _cifar(root: Path, base: Path, kind: _Cifar) -> LabelledImages:
    names = _unpickled(base / kind.meta).get(kind.names)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(expected=f"the class names under {kind.names}", found="none", where=base / kind.meta)

    def listed(files: tuple[str, ...]) -> Listed:
        found = [_batch(base / name, kind.labels) for name in files]
        pixels, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
        images = pixels.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)
        return _numbered(base / (files[0] if len(files) == 1 else "data_batch"), labels, images)

    annotations = [base / name for name in (*kind.train, kind.test, kind.meta)]
    return assemble(root, kind.layout, names, listed(kind.train), listed((kind.test,)), annotations=annotations)


def _batch(path: Path, labels_key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = _unpickled(path)
    pixels, labels = content.get("data"), content.get(labels_key)
    if (
        not isinstance(pixels, np.ndarray)
        or not isinstance(labels, list)
        or pixels.dtype != np.uint8
        or pixels.shape != (len(labels), 3 * _CIFAR_SIDE**2)
        or not all(type(label) is int for label in labels)
    ):
        raise UserError(
            expected=f"images of 32x32 pixels under data, and as many {labels_key}",
            found=f"{getattr(pixels, 'shape', 'none')} and {len(labels) if isinstance(labels, list) else 'none'}",
            where=path,
            cure="unpack the data set again",
        )
    return pixels, np.array(labels, dtype=np.int64)


def _unpickled(path: Path) -> dict[Any, Any]:
    """A pickled dictionary of arrays, numbers and strings; nothing in it is run."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            machine = Machine(data, ArrayRules(tally := Tally(), len(data)), tally, protocols=(2, 3, 4, 5))
            machine.run()
            if machine.position != len(data):
                raise Refused("one pickle", "more bytes after it")
            content = arrays.load(file)
    except OSError as error:
        raise absent(path, error) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        found = f"other content ({error})" if str(error) else "other content"
        raise UserError(
            expected="a pickle of arrays, as CIFAR comes in its python version",
            found=found[:200],
            where=path,
            cure="unpack the data set again",
        ) from None
    if not isinstance(content, dict):
        raise UserError(expected="a pickled dictionary", found=type(content).__name__, where=path)
    return content


def _numbered(where: Path, labels: NDArray[np.int64], pixels: NDArray[np.uint8]) -> Listed:
    """Images that have no file of their own: a message calls them by the file that holds them, and their number."""
    paths = [where / f"{index:05d}" for index in range(len(labels))]
    return Listed(where, paths, labels.tolist(), _Pixels(pixels))
