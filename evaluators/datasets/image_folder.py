"""The layout of ImageNet: `train/CLASS/…` and `val/CLASS/…`, one folder a class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from converters.dataset_fingerprint import fingerprint, is_image, is_sample
from converters.errors import UserError
from converters.folders import files_below
from evaluators.datasets.card import DatasetCard
from evaluators.protocol import TaskSettings

SPLITS = ("train", "val")


class Sample(NamedTuple):
    """One labelled image."""

    path: Path
    label: int
    """Index into the sorted class names."""


@dataclass(frozen=True)
class ImageFolder:
    """A data set of labelled images, each split sorted by class name, then by path."""

    root: Path
    classes: tuple[str, ...]
    """Folder names, sorted; a label is an index into them."""
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    card: DatasetCard


def read(root: Path) -> ImageFolder:
    """List and check the image folder at `root`. No image is opened.

    Raises:
        UserError: if the root or a split is missing, a class is empty, there are fewer than two classes, or the classes
            of train and val differ.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "none"
        raise UserError(expected="an image folder with train/ and val/", found=found, where=root, cure="check the path")
    missing = [split for split in SPLITS if not (root / split).is_dir()]
    if missing:
        raise UserError(
            expected="the folders train/ and val/",
            found=f"no {' and no '.join(f'{split}/' for split in missing)} in it",
            where=root,
            cure="give the folder that holds both",
        )
    files = {split: _class_files(root / split) for split in SPLITS}
    _same_classes(root, {split: set(found) for split, found in files.items()})
    classes = tuple(sorted(files["train"]))
    samples = {
        split: tuple(Sample(path, label) for label, name in enumerate(classes) for path in files[split][name])
        for split in SPLITS
    }
    paths = [sample.path for split in SPLITS for sample in samples[split]]
    try:
        identity = fingerprint(root, paths)
    except OSError as error:
        raise UserError(
            expected="an image", found=error.strerror or str(error), where=error.filename, cure="repair or remove it"
        ) from None
    described = DatasetCard(
        name=root.resolve().name,
        layout="image-folder",
        fingerprint=identity,
        sample=is_sample(root),
        images={split: len(samples[split]) for split in SPLITS},
    )
    return ImageFolder(root=root, classes=classes, train=samples["train"], val=samples["val"], card=described)


def card(settings: TaskSettings, root: Path) -> DatasetCard:  # noqa: ARG001 - one signature for all layouts
    """The card of the data set at `root`; errors as for `read`."""
    return read(root).card


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


def _class_files(split: Path) -> dict[str, list[Path]]:
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
