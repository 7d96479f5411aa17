"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError
from evaluators.datasets.card import DatasetCard
from evaluators.settings import TaskSettings
from evaluators.settings.segmentation import SegmentationSettings

IMAGE_SUFFIX = "_leftImg8bit.png"
LABEL_SUFFIX = "_gtFine_labelTrainIds.png"
NUM_CLASSES = 19
IGNORED = 255

_LABELS_CHECKED = 50
"""Label maps a split whose values are read. Wrong labels come from one wrong conversion of the whole set, so that a
sample finds them; reading all 3 475 would take minutes."""


@dataclass(frozen=True)
class CityscapesSplit:
    """One split: images with their label maps."""

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]


def read_split(root: Path, name: str) -> CityscapesSplit:
    """Find the files of the split `train` or `val` and check that they belong together.

    Raises:
        UserError: if a folder or a label map is missing, the split is empty, or labels are no train ids.
    """
    if not root.is_dir():
        raise UserError(expected="a folder with Cityscapes", found="none", where=root, cure="check the path")
    folder = root / "leftImg8bit" / name
    if not folder.is_dir():
        raise UserError(
            expected=f"the split {name} of Cityscapes",
            found="no such folder",
            where=folder,
            cure="give the folder that holds leftImg8bit and gtFine",
        )
    images = tuple(sorted(folder.glob(f"*/*{IMAGE_SUFFIX}")))
    if not images:
        raise UserError(expected=f"images *{IMAGE_SUFFIX} in the folders of its cities", found="none", where=folder)
    labels = tuple(_label_of(root, name, image) for image in images)
    for image, label in list(zip(images, labels, strict=True))[:: -(-len(labels) // _LABELS_CHECKED)]:
        _check_label(image, label)
    return CityscapesSplit(name, images, labels)


def card(settings: TaskSettings, root: Path) -> DatasetCard:
    """The card of the data that a protocol's settings ask for, read from `root`; errors as for `read_split`."""
    assert isinstance(settings, SegmentationSettings)
    return describe(root, [read_split(root, name) for name in (settings.train_split, settings.test_split)])


def describe(root: Path, splits: Sequence[CityscapesSplit]) -> DatasetCard:
    """Which data these splits are."""
    return DatasetCard(
        name="Cityscapes " + ", ".join(split.name for split in splits),
        layout="cityscapes",
        fingerprint=fingerprint(
            root,
            {image for split in splits for image in split.images},
            {label for split in splits for label in split.labels},
        ),
        sample=any(is_sample(folder) for folder in (root, root.parent)),
        images={split.name: len(split.images) for split in splits},
    )


def _label_of(root: Path, split: str, image: Path) -> Path:
    label = root / "gtFine" / split / image.parent.name / (image.name.removesuffix(IMAGE_SUFFIX) + LABEL_SUFFIX)
    if label.is_file():
        return label
    if label.with_name(label.name.replace("labelTrainIds", "labelIds")).is_file():
        cure = "make them from labelIds with cityscapesscripts: csCreateTrainIdLabelImgs (createTrainIdLabelImgs.py)"
    else:
        cure = "unpack gtFine beside leftImg8bit, then run csCreateTrainIdLabelImgs of cityscapesscripts"
    raise UserError(expected=f"the label map of {image.name}", found="none", where=label, cure=cure)


def _check_label(image: Path, label: Path) -> None:
    try:
        with Image.open(label) as opened:
            values = np.asarray(opened)
        with Image.open(image) as opened:
            size = opened.size
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(expected="a PNG image", found=f"a damaged file ({error})", where=label) from None
    if values.shape != size[::-1]:
        raise UserError(
            expected=f"one label a pixel, {size[0]}x{size[1]}",
            found="x".join(map(str, values.shape[::-1])),
            where=label,
        )
    wrong = values[(values >= NUM_CLASSES) & (values != IGNORED)]
    if wrong.size:
        raise UserError(
            expected=f"train ids 0 to {NUM_CLASSES - 1}, or {IGNORED} for ignored",
            found=f"the value {int(wrong.max())}",
            where=label,
            cure="make them from labelIds with cityscapesscripts: csCreateTrainIdLabelImgs",
        )
