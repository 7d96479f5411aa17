"""Lists of files: `train.txt` and `val.txt` (or `test.txt`), a line an image, as OpenMMLab and Caffe write them.

    n01440764/n01440764_10026.JPEG 0      a path, blanks or tabs, and a class index, counted from 0
    n01440764/n01440764_10026.JPEG        or a path alone, whose first folder is the class

Paths are relative to the data set's root, or to its folder `train/` or `val/`: the first line of a list decides.
With indices, `classes.txt` may name the classes, a line each; without it they are called by their numbers.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import NamedTuple

from converters.errors import UserError
from evaluators.datasets.assemble import Listed, assemble, below, lines_of, numbered_lines
from evaluators.datasets.labelled import LabelledImages

TRAIN, VALS, CLASSES = "train.txt", ("val.txt", "test.txt"), "classes.txt"
_LABELLED = re.compile(r"(.+?)[ \t]+(-?[0-9]{1,9})")
_SHOWN = 100
"""Characters of a name that a message shows."""


class Row(NamedTuple):
    """An image of a list."""

    name: str
    label: int | None
    where: str
    """The list and the line."""


def recognised(root: Path) -> bool:
    """Whether the root holds both lists."""
    return (root / TRAIN).is_file() and any((root / name).is_file() for name in VALS)


def read(root: Path) -> LabelledImages:
    """Read both lists, and check that every listed image is there. No image is opened.

    Raises:
        UserError: for a line that is none, a path that leads out of the data set, an image that is not there or listed
            twice, a label out of range, a class without a training image.
    """
    lists = [root / TRAIN, next(root / name for name in VALS if (root / name).is_file())]
    rows = [_rows(path) for path in lists]
    labelled = rows[0][0].label is not None
    for row in (row for found in rows for row in found):
        if (row.label is not None) != labelled:
            raise UserError(
                expected="a label in every line of both lists, or in none",
                found=f"{'none' if row.label is None else row.label} behind {row.name[:_SHOWN]}",
                where=row.where,
                cure="write a path, a blank or a tab, and the index of a class",
            )
    annotations = list(lists)
    if labelled:
        numbers = [[row.label for row in found if row.label is not None] for found in rows]
        if (root / CLASSES).is_file():
            classes = lines_of(root / CLASSES)
            annotations.append(root / CLASSES)
        else:
            most = max(max(found) for found in numbers)
            least = min(min(found) for found in numbers)
            if least < 0 or most >= len(numbers[0]):
                raise UserError(
                    expected="labels 0 to C - 1, each with an image to train on",
                    found=f"the label {least if least < 0 else most}, with {len(numbers[0])} images",
                    where=lists[0],
                )
            classes = [str(number) for number in range(most + 1)]
    else:
        folders = [[_folder(row) for row in found] for found in rows]
        classes = sorted({folder for found in folders for folder in found})
        index_of = {name: index for index, name in enumerate(classes)}
        numbers = [[index_of[folder] for folder in found] for found in folders]
    train, val = (
        Listed(path, _paths(root, path, found), labels)
        for path, found, labels in zip(lists, rows, numbers, strict=True)
    )
    return assemble(root, "file-list", classes, train, val, annotations=annotations)


def _rows(path: Path) -> list[Row]:
    """The images of a list, with labels where it has some. A path may hold blanks."""
    rows = []
    for number, line in numbered_lines(path):
        found = _LABELLED.fullmatch(line)
        name, label = (found[1], int(found[2])) if found else (line, None)
        rows.append(Row(name, label, f"{path}, line {number}"))
    return rows


def _folder(row: Row) -> str:
    folder, slash, _ = row.name.removeprefix("./").partition("/")
    if not slash:
        raise UserError(
            expected="a path and a label, or class/name.jpg",
            found=repr(row.name[:_SHOWN]),
            where=row.where,
            cure="write both",
        )
    return folder


def _paths(root: Path, listed_in: Path, rows: list[Row]) -> list[Path]:
    below_split, first = root / listed_in.stem, rows[0]
    in_root = _fault(below(root, first.name, first.where)) is None
    base = below_split if not in_root and below_split.is_dir() else root
    paths = [below(base, row.name, row.where) for row in rows]
    for row, path in zip(rows, paths, strict=True):
        if (fault := _fault(path)) is not None:
            raise UserError(
                expected=f"an image of {base}, and behind it the index of a class or nothing",
                found=f"{row.name[:_SHOWN]!r} ({fault})",
                where=row.where,
                cure="correct the line, or unpack the data set again",
            )
    return paths


def _fault(path: Path) -> str | None:
    """Why there is no file, or None."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    return None if stat.S_ISREG(mode) else "no file but a folder" if stat.S_ISDIR(mode) else "no file"
