"""Whether a data set on disk is what it should be: counts, a sample of images decoded, or every byte hashed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters.errors import UserError
from converters.folders import files_below
from converters.hashing import sha256_of
from converters.progress import Progress
from converters.settings import nearest
from evaluators.datasets import cityscapes, classification, coco, voc
from evaluators.datasets.labelled import load_image
from evaluators.datasets.published import FOLDER, SHOULD, Should


@dataclass(frozen=True)
class Part:
    """A split as it lies on disk."""

    name: str
    paths: tuple[Path, ...]
    groups: NDArray[np.int64]
    """N: the class of each image, or 0 where a split has no classes; a sample is spread over them."""
    load: Callable[[int], Image.Image]


@dataclass(frozen=True)
class Contents:
    """A data set as it lies on disk."""

    layout: str
    parts: tuple[Part, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Deviation:
    """Something that is not as it should be."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def should_be(name: str) -> Should | None:
    """What the data set of this name should hold; None for `folder`, of which nothing is known.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name == FOLDER:
        return None
    if name not in SHOULD:
        raise UserError(
            expected="the name of a known data set, or folder", found=repr(name), cure=nearest(name, [*SHOULD, FOLDER])
        )
    return SHOULD[name]


def read(root: Path, should: Should | None) -> Contents:
    """What lies at `root`, listed and checked as for an evaluation.

    Raises:
        UserError: if it is no such data set, or half of one.
    """
    if should is None or should.layout == "classification":
        data = classification.read(root)
        parts = tuple(Part(split.name, split.paths, split.labels, split.load) for split in (data.train, data.val))
        return Contents(data.card.layout, parts, data.classes)
    if should.layout == "voc":
        splits = [voc.read_split(root, name) for name in should.images]
        listed = {split.name: tuple(image.file for image in split.images) for split in splits}
        present = {thing.class_index for split in splits for image in split.images for thing in image.objects}
        classes = tuple(voc.CLASS_NAMES[index] for index in sorted(present))
    elif should.layout == "coco":
        annotated = [coco.read_split(root, name) for name in should.images]
        listed = {split.name: split.images for split in annotated}
        classes = tuple(sorted({name for split in annotated for name in split.category_names}))
    else:
        scenes = [cityscapes.read_split(root, name) for name in should.images]
        listed = {split.name: split.images for split in scenes}
        classes = tuple(str(index) for index in range(cityscapes.NUM_CLASSES))  # the reader holds labels against them
    return Contents(should.layout, tuple(_files(name, paths) for name, paths in listed.items()), classes)


def _files(name: str, paths: tuple[Path, ...]) -> Part:
    return Part(name, paths, np.zeros(len(paths), dtype=np.int64), lambda index: load_image(paths[index]))


def count(contents: Contents, should: Should) -> list[Deviation]:
    """Held against the published numbers."""
    deviations = []
    if len(contents.classes) != should.classes:
        deviations.append(Deviation("classes", f"{should.classes:,}", f"{len(contents.classes):,}"))
    if should.class_names:
        strange = [name for name in contents.classes if not re.fullmatch(should.class_names, name)]
        if strange:
            found = f"{len(strange):,} others, as {strange[0]!r}"
            deviations.append(Deviation("class names", f"names such as n01440764 ({should.class_names})", found))
    for part in contents.parts:
        if len(part.paths) != should.images[part.name]:
            deviations.append(Deviation(part.name, f"{should.images[part.name]:,} images", f"{len(part.paths):,}"))
        if part.name in should.per_class:
            deviations += _per_class(part, contents.classes, *should.per_class[part.name])
    for one, other in combinations(contents.parts, 2):
        if both := set(one.paths).intersection(other.paths):
            found = f"{len(both):,}, as {min(both)}"
            deviations.append(Deviation(f"{one.name} and {other.name}", "no image in both", found))
    return deviations


def _per_class(part: Part, classes: Sequence[str], least: int, most: int) -> list[Deviation]:
    counts = np.bincount(part.groups, minlength=len(classes))
    wrong = [index for index, number in enumerate(counts) if not least <= number <= most]
    if not wrong:
        return []
    expected = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    others = f", and so in {len(wrong) - 1} other classes" if len(wrong) > 1 else ""
    found = f"{counts[wrong[0]]:,} in {classes[wrong[0]]}{others}"
    return [Deviation(part.name, f"{expected} images of every class", found)]


def sample(contents: Contents, number: int, seed: int) -> list[tuple[Part, int]]:
    """Images to look at, drawn by the seed: shared evenly by the splits, and within one by its classes."""
    chosen: list[tuple[Part, int]] = []
    for place, part in enumerate(contents.parts):
        share = number // len(contents.parts) + (place < number % len(contents.parts))
        generator = np.random.default_rng((seed, place))
        shuffled = generator.permutation(len(part.paths))
        # The first image of every class in random order, then the second, ...
        turns = np.zeros(len(shuffled), dtype=np.int64)
        order = np.argsort(part.groups[shuffled], kind="stable")
        groups = part.groups[shuffled][order]
        starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
        turns[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
        spread = shuffled[np.argsort(turns, kind="stable")]
        chosen += [(part, int(index)) for index in spread[:share]]
    return chosen


def damaged(chosen: Iterable[tuple[Part, int]], total: int) -> Iterator[Deviation]:
    """The images among the chosen that cannot be decoded to their last byte."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, Progress("decode", total, unit="img") as progress:
        for found in pool.map(_look, chosen):
            progress.step()
            if found is not None:
                yield found


def _look(one: tuple[Part, int]) -> Deviation | None:
    part, index = one
    try:
        part.load(index)
    except UserError as error:
        return Deviation(str(part.paths[index]), error.expected, error.found)
    return None


def fingerprint_of_all(root: Path) -> tuple[str, int, int]:
    """sha256 (hex) over the sorted relative paths of all files below `root` and the sha256 of each, and what that took.

    Returns:
        The fingerprint, how many files, how many bytes.

    Raises:
        UserError: for a file that cannot be read.
    """
    files = sorted(files_below(root))
    digest, size = hashlib.sha256(), 0
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool, Progress("hash", len(files), unit="file") as progress:
            for path, content in zip(files, pool.map(sha256_of, files), strict=True):
                digest.update(f"{path.relative_to(root).as_posix()}\0{content}\0".encode(errors="surrogateescape"))
                size += path.stat().st_size
                progress.step()
    except OSError as error:
        raise UserError(
            expected="a readable file", found=error.strerror or str(error), where=error.filename, cure="repair it"
        ) from None
    return digest.hexdigest(), len(files), size
