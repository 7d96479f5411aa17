"""Lists of files: `train.txt` and `val.txt` (or `test.txt`), a line an image, as OpenMMLab and Caffe write them.

    n01440764/n01440764_10026.JPEG 0      a path and a class index, counted from 0
    n01440764/n01440764_10026.JPEG        or a path alone, whose first folder is the class

Paths are relative to the data set's root, or to its folder `train/` or `val/`: the first line of a list decides.
With indices, `classes.txt` may name the classes, a line each; without it they are called by their numbers.
"""

from __future__ import annotations

from pathlib import Path

from converters.errors import UserError
from evaluators.datasets.assemble import Listed, assemble, below, lines_of
from evaluators.datasets.labelled import LabelledImages

TRAIN, VALS, CLASSES = "train.txt", ("val.txt", "test.txt"), "classes.txt"


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
    labelled = rows[0][0][1] is not None
    for path, found in zip(lists, rows, strict=True):
        for number, (name, label) in enumerate(found, start=1):
            if (label is not None) != labelled:
                raise UserError(
                    expected="a label in every line of both lists, or in none",
                    found=f"{'none' if label is None else label} behind {name}",
                    where=f"{path}, image {number}",
                )
    annotations = list(lists)
    if labelled:
        numbers = [[label for _, label in found if label is not None] for found in rows]
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
        folders = [[_folder(name, path) for name, _ in found] for path, found in zip(lists, rows, strict=True)]
        classes = sorted({folder for found in folders for folder in found})
        index_of = {name: index for index, name in enumerate(classes)}
        numbers = [[index_of[folder] for folder in found] for found in folders]
    train, val = (
        Listed(path, _paths(root, path, [name for name, _ in found]), labels)
        for path, found, labels in zip(lists, rows, numbers, strict=True)
    )
    return assemble(root, "file-list", classes, train, val, annotations=annotations)


def _rows(path: Path) -> list[tuple[str, int | None]]:
    """The paths of a list, with labels where it has some. A path may hold blanks."""
    rows: list[tuple[str, int | None]] = []
    for line in lines_of(path):
        name, _, label = line.rpartition(" ") if " " in line else line.rpartition("\t")
        if name and label.lstrip("-").isdecimal():
            rows.append((name.strip(), int(label)))
        else:
            rows.append((line, None))
    return rows


def _folder(name: str, where: Path) -> str:
    folder, slash, _ = name.removeprefix("./").partition("/")
    if not slash:
        raise UserError(
            expected="a path and a label, or class/name.jpg", found=repr(name), where=where, cure="write both"
        )
    return folder


def _paths(root: Path, listed_in: Path, names: list[str]) -> list[Path]:
    below_split = root / listed_in.stem
    base = below_split if not below(root, names[0], listed_in).exists() and below_split.is_dir() else root
    return [below(base, name, listed_in) for name in names]
