"""The layout of ImageNet: `train/CLASS/…` and `val/CLASS/…`, one folder a class; `test/` where no `val/` is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converters.dataset_fingerprint import fingerprint, is_image, is_sample
from converters.errors import UserError
from converters.folders import files_below
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.settings import TaskSettings

SPLITS = ("train", "val")


def read(root: Path) -> LabelledImages:
    """List and check the image folder at `root`. No image is opened.

    Raises:
        UserError: if the root or a split is missing, a class is empty, there are fewer than two classes, or the classes
            of train and val differ.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "none"
        raise UserError(expected="an image folder with train/ and val/", found=found, where=root, cure="check the path")
    folders = {split: root / split for split in SPLITS}
    if not folders["val"].is_dir() and (root / "test").is_dir():
        folders["val"] = root / "test"
    missing = [split for split in SPLITS if not folders[split].is_dir()]
    if missing:
        raise UserError(
            expected="the folders train/ and val/",
            found=f"no {' and no '.join(f'{split}/' for split in missing)} in it",
            where=root,
            cure="give the folder that holds both",
        )
    files = {split: class_files(folders[split]) for split in SPLITS}
    _same_classes(root, {split: set(found) for split, found in files.items()})
    classes = tuple(sorted(files["train"]))
    try:
        identity = fingerprint(root, [path for found in files.values() for paths in found.values() for path in paths])
    except OSError as error:
        raise UserError(
            expected="an image", found=error.strerror or str(error), where=error.filename, cure="repair or remove it"
        ) from None
    splits = {split: _split(split, identity, [files[split][name] for name in classes]) for split in SPLITS}
    described = DatasetCard(
        name=root.resolve().name,
        layout="image-folder",
        fingerprint=identity,
        sample=is_sample(root),
        images={split: len(splits[split]) for split in SPLITS},
    )
    return LabelledImages(root=root, classes=classes, train=splits["train"], val=splits["val"], card=described)


def card(settings: TaskSettings, root: Path) -> DatasetCard:  # noqa: ARG001 - one signature for all layouts
    """The card of the data set at `root`; errors as for `read`."""
    return read(root).card


def _split(name: str, source: str, files: Sequence[Sequence[Path]]) -> Split:
    """A split from the files of each class; sorted by class name, then by path."""
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files])
    return Split(name, source, tuple(path for paths in files for path in paths), labels)


def class_files(split: Path) -> dict[str, list[Path]]:
    """The images of each class folder, sorted; folders below a class folder belong to it."""
    with os.scandir(split) as entries:
        listed = [entry for entry in entries if not entry.name.startswith(".")]
    names = sorted(entry.name for entry in listed if entry.is_dir())
    if not names:
        loose = sum(is_image(entry.name) for entry in listed)
        raise UserError(
            expected="one folder a class",
            found=f"{loose} images directly in it" if loose else "no folder",
            where=split,
            cure="sort the images into class folders" if loose else "check the path",
        )
    files = {name: _images_below(split / name) for name in names}
    empty = [name for name in names if not files[name]]
    if empty:
        raise UserError(
            expected="images in every class folder",
            found="no image" + (f" here nor in {len(empty) - 1} others" if len(empty) > 1 else ""),
            where=split / empty[0],
            cure="add images or remove the folder from train/ and val/",
        )
    return files


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in files_below(folder) if is_image(path.name))


def _same_classes(root: Path, classes: dict[str, set[str]]) -> None:
    for here, there in (("train", "val"), ("val", "train")):
        only = sorted(classes[here] - classes[there])
        if only:
            shown = ", ".join(only[:3]) + (", …" if len(only) > 3 else "")
            raise UserError(
                expected="the same classes in train/ and val/",
                found=f"{len(only)} only in {here}/: {shown}",
                where=root,
            )
    # After this, both splits hold the same classes.
    if len(classes["train"]) < 2:
        raise UserError(expected="at least two classes", found=f"one: {min(classes['train'])}", where=root)
