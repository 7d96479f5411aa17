"""From what a layout's files say to `LabelledImages`: the checks that all layouts share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages, Split


@dataclass(frozen=True)
class Listed:
    """The images of a split, in their order."""

    where: Path
    """The file or folder that lists them, for messages."""
    paths: Sequence[Path]
    labels: Sequence[int]
    """Class indices."""
    reader: Callable[[int], Image.Image] | None = None
    """As in `evaluators.datasets.labelled.Split`."""


def assemble(
    root: Path,
    layout: str,
    classes: Sequence[str],
    train: Listed,
    val: Listed,
    *,
    annotations: Iterable[Path],
    validation: Sequence[int] | None = None,
) -> LabelledImages:
    """The data set at `root`, checked. No image is opened.

    Args:
        root: the data set's root; all paths lie below it.
        layout: for the card.
        classes: C names.
        train: the images to learn from.
        val: the images that numbers are reported on.
        annotations: files whose bytes are part of the fingerprint.
        validation: indices of the images of `train` that the data set sets apart for choosing settings.

    Raises:
        UserError: if a split is empty, a label is no class, an image is listed twice or absent, a class has no training
            image, or there are fewer than two classes.
    """
    if len(classes) < 2:
        raise UserError(expected="at least two classes", found=str(len(classes)), where=train.where)
    if len(set(classes)) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise UserError(expected="every class once", found=f"{twice!r} again", where=root)
    for listed in (train, val):
        _check(listed, classes)
    # Only now: a label far out of range would ask for an array of that length.
    present = np.bincount(np.asarray(train.labels, dtype=np.int64), minlength=len(classes))
    if not present.all():
        without = [name for name, count in zip(classes, present, strict=True) if not count]
        raise UserError(
            expected="an image of every class to train on",
            found=f"none of {', '.join(without[:3])}" + (f" and {len(without) - 3} others" if len(without) > 3 else ""),
            where=train.where,
        )
    if train.reader is None and val.reader is None and (both := set(train.paths).intersection(val.paths)):
        raise UserError(
            expected=f"images that are not in {train.where.name} too",
            found=f"{len(both):,} that are, as {min(both).relative_to(root)}",
            where=val.where,
            cure="take them out of one of the two: numbers are reported on images that were never trained on",
        )
    files = [path for listed in (train, val) if listed.reader is None for path in listed.paths]
    try:
        identity = fingerprint(root, dict.fromkeys(files), annotations)
    except OSError as error:
        found = "none" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise UserError(
            expected="a file of the data set, which is listed",
            found=found,
            where=error.filename,
            cure="unpack the data set again, or correct the list",
        ) from None
    splits = {
        split: Split(split, identity, tuple(listed.paths), np.asarray(listed.labels, dtype=np.int64), listed.reader)
        for split, listed in (("train", train), ("val", val))
    }
    described = DatasetCard(
        name=root.resolve().name,
        layout=layout,
        fingerprint=identity,
        sample=is_sample(root),
        images={split: len(images) for split, images in splits.items()},
    )
    return LabelledImages(
        root=root,
        classes=tuple(classes),
        train=splits["train"],
        val=splits["val"],
        card=described,
        validation=None if validation is None else np.sort(np.asarray(validation, dtype=np.int64)),
    )


def _check(listed: Listed, classes: Sequence[str]) -> None:
    if not len(listed.paths):
        raise UserError(expected="images", found="an empty list", where=listed.where)
    labels = np.asarray(listed.labels, dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise UserError(
            expected=f"labels 0 to {len(classes) - 1}",
            found=f"{labels[wrong[0]]} for {listed.paths[wrong[0]].name}",
            where=listed.where,
        )
    if len(set(listed.paths)) < len(listed.paths):
        twice = Counter(listed.paths).most_common(1)[0][0]
        raise UserError(expected="every image once", found=f"{twice} again", where=listed.where)


def below(folder: Path, name: str, where: str | Path) -> Path:
    """The file `name` below a folder.

    Raises:
        UserError: for an absolute path, or one that leads out of the folder.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise UserError(
            expected="a path below the data set's root", found=repr(name), where=where, cure="write it relative to that"
        )
    return folder / parts


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, stripped; empty ones are left out.

    Raises:
        UserError: if it is absent, no text, or empty.
    """
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """As `lines_of`, each line with its number in the file, from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        lines = [(number, stripped) for number, line in enumerate(text.splitlines(), 1) if (stripped := line.strip())]
    except UnicodeDecodeError:
        raise UserError(expected="a text file in UTF-8", found="other bytes", where=path) from None
    except OSError as error:
        raise absent(path, error) from None
    if not lines:
        raise UserError(expected="lines of text", found="an empty file", where=path)
    return lines


def absent(path: Path, error: OSError) -> UserError:
    """A file of the data set that cannot be read."""
    found = "none" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    return UserError(expected="a file of the data set", found=found, where=path, cure="unpack the data set again")
