"""PASCAL VOC as images with several labels: which of the 20 classes are present.

A label is 1 where an object of the class is present that is not difficult, 0 (ignored) where all of its objects are
difficult, and -1 where there is none. That is what the devkit's lists `ImageSets/Main/CLASS_SPLIT.txt` say; where the
devkit has them they are read, as open-mmlab/OpenSelfSup@1db69ec tools/prepare_data/create_voc_data_files.py does, else
the annotations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.datasets.voc import CLASS_NAMES, VocImage, VocSplit, devkit, read_split
from evaluators.settings import TaskSettings
from evaluators.settings.logistic import ManyshotSettings
from evaluators.settings.svm import SvmSettings


def read(settings: SvmSettings | ManyshotSettings, root: Path) -> LabelledImages:
    """Read and check the training and the test split. No image is decoded.

    Raises:
        UserError: as `evaluators.datasets.voc.read_split`, and for a damaged list of a class.
    """
    splits = [read_split(root, name) for name in (settings.train_split, settings.test_split)]
    lists = {split.name: _class_lists(split) for split in splits}
    described = _describe(root, splits, lists)
    train, test = (
        Split(
            split.name,
            described.fingerprint,
            tuple(image.file for image in split.images),
            _listed(split, lists[split.name]) if lists[split.name] else annotated(split.images),
        )
        for split in splits
    )
    return LabelledImages(root=devkit(root), classes=CLASS_NAMES, train=train, val=test, card=described)


def card(settings: TaskSettings, root: Path) -> DatasetCard:
    """The card of the data that a protocol's settings ask for, read from `root`; errors as for `read`."""
    assert isinstance(settings, SvmSettings | ManyshotSettings), settings.task
    return read(settings, root).card


def annotated(images: tuple[VocImage, ...]) -> NDArray[np.int64]:
    """N×20 labels from the annotations of N images."""
    labels = np.full((len(images), len(CLASS_NAMES)), -1, dtype=np.int64)
    for row, image in zip(labels, images, strict=True):
        for thing in image.objects:
            row[thing.class_index] = max(row[thing.class_index], 0 if thing.difficult else 1)
    return labels


def _class_lists(split: VocSplit) -> tuple[Path, ...]:
    """The lists of the 20 classes, or none where the devkit has none for this split.

    Raises:
        UserError: if it has some of them only.
    """
    names = [split.list_file.with_name(f"{name}_{split.list_file.name}") for name in CLASS_NAMES]
    there = [path for path in names if path.is_file()]
    if there and len(there) < len(names):
        missing = next(path for path in names if path not in there)
        raise UserError(
            expected=f"a list of the split {split.name} for every class, or for none",
            found=f"{len(there)} of {len(names)}",
            where=missing,
            cure=f"unpack all of VOC{split.year}",
        )
    return tuple(there)


def _listed(split: VocSplit, lists: tuple[Path, ...]) -> NDArray[np.int64]:
    """N×20 labels from the lists of the classes, which have a line `ID LABEL` for every image of the split."""
    row_of = {image.id: row for row, image in enumerate(split.images)}
    labels = np.full((len(split.images), len(CLASS_NAMES)), -2, dtype=np.int64)
    for column, path in enumerate(lists):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[0] not in row_of or words[1] not in ("-1", "0", "1"):
                raise UserError(
                    expected=f"an image of {split.name} and 1, 0 or -1", found=repr(line), where=f"{path}:{number}"
                )
            labels[row_of[words[0]], column] = int(words[1])
        if (labels[:, column] == -2).any():
            absent = split.images[int(np.argmax(labels[:, column] == -2))].id
            raise UserError(expected=f"a line for every image of {split.name}", found=f"none for {absent}", where=path)
    return labels


def _describe(root: Path, splits: list[VocSplit], lists: dict[str, tuple[Path, ...]]) -> DatasetCard:
    base = devkit(root)
    images = {image for split in splits for image in split.images}
    annotations = {image.annotation for image in images} | {split.list_file for split in splits}
    annotations |= {path for paths in lists.values() for path in paths}
    return DatasetCard(
        name="PASCAL VOC " + ", ".join(split.name for split in splits),
        layout="voc-labels",
        fingerprint=fingerprint(base, {image.file for image in images}, annotations),
        sample=any(is_sample(folder) for folder in (base, base.parent)),
        images={split.name: len(split.images) for split in splits},
    )
