"""`LabelledImages`: what every data set for classification becomes, whatever its layout on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters.errors import UserError
from evaluators.datasets.card import DatasetCard


class Sample(NamedTuple):
    """One labelled image."""

    path: Path
    label: int
    """Index into the class names; -1 where an image can have several classes."""


@dataclass(frozen=True)
class Split:
    """Images in a fixed order, each with its label: a sequence of `Sample`."""

    name: str
    """As `train`."""
    source: str
    """The fingerprint of its data set; with `name` it says which images these are, in which order."""
    paths: tuple[Path, ...]
    """Of N images, what a message calls them; for layouts with many images in a file no file of that name exists."""
    labels: NDArray[np.int64]
    """N class indices; or N×C, where an image can have several classes: 1 present, -1 absent, 0 ignored."""
    reader: Callable[[int], Image.Image] | None = None
    """The decoded image in RGB by its index, picklable; None: the files at `paths`."""

    def __post_init__(self) -> None:
        assert len(self.paths) == len(self.labels), f"{len(self.paths)} images, {len(self.labels)} labels"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.paths[index], int(self.labels[index]) if self.labels.ndim == 1 else -1)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def load(self, index: int) -> Image.Image:
        """The image, decoded, in RGB.

        Raises:
            UserError: if it cannot be decoded, with its path.
        """
        return load_image(self.paths[index]) if self.reader is None else self.reader(index)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """Some of the images, in the order of `indices`, as a split of their own."""
        digest = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
        reader = None if self.reader is None else _Taken(self.reader, indices)
        paths = tuple(self.paths[index] for index in indices)
        return Split(f"{self.name}[{digest[:16]}]", self.source, paths, self.labels[indices], reader)


@dataclass(frozen=True)
class _Taken:
    reader: Callable[[int], Image.Image]
    indices: NDArray[np.int64]

    def __call__(self, index: int) -> Image.Image:
        return self.reader(int(self.indices[index]))


@dataclass(frozen=True)
class LabelledImages:
    """A data set for classification."""

    root: Path
    classes: tuple[str, ...]
    """C names; a label is an index into them."""
    train: Split
    val: Split
    """What numbers are reported on, whichever name the data set gives it."""
    card: DatasetCard
    validation: NDArray[np.int64] | None = None
    """Sorted indices of the training images that the data set itself sets apart for choosing settings."""


def load_image(path: Path) -> Image.Image:
    """The image at `path`, decoded, in RGB.

    Raises:
        UserError: if it cannot be decoded, with its path.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Pillow reports damage by many types: SyntaxError for a broken PNG, ValueError for impossible sizes.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            expected="an image that can be decoded", found=str(error), where=path, cure="repair or remove it"
        ) from None
