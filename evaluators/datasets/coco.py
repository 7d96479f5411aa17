"""COCO detection: `annotations/instances_SPLIT.json` with the images in `SPLIT/`, as `train2017` and `val2017`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError
from evaluators.datasets.card import DatasetCard
from evaluators.settings import TaskSettings
from evaluators.settings.detection import DetectionSettings


@dataclass(frozen=True)
class CocoSplit:
    """One annotation file with its images."""

    name: str
    annotations: Path
    folder: Path
    images: tuple[Path, ...]
    category_ids: tuple[int, ...]
    """Sorted; their positions are the class indices."""
    category_names: tuple[str, ...]


def read_split(root: Path, name: str) -> CocoSplit:
    """Read the split `name`, such as `val2017`, and check that its images are there.

    Raises:
        UserError: if a file is missing, the JSON is damaged, or the split is empty.
    """
    if not root.is_dir():
        raise UserError(expected="a folder with COCO", found="none", where=root, cure="check the path")
    annotations = root / "annotations" / f"instances_{name}.json"
    if not annotations.is_file():
        there = sorted(path.name for path in annotations.parent.glob("instances_*.json"))
        raise UserError(
            expected=f"the annotations of the split {name}",
            found=f"none; there are: {', '.join(there)}" if there else "none",
            where=annotations,
            cure="give the folder that holds annotations and the image folders",
        )
    try:
        content: dict[str, Any] = json.loads(annotations.read_bytes())
        files = [str(image["file_name"]) for image in content["images"]]
        categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        objects = content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            expected="COCO annotations with images, categories and annotations",
            found=f"another or damaged file ({type(error).__name__}: {error})",
            where=annotations,
        ) from None
    if not files or not objects or not categories:
        raise UserError(expected="images with annotated objects", found="none", where=annotations)
    folder = root / name
    images = tuple(folder / file for file in files)
    for image in images:
        if not image.is_file():
            raise UserError(
                expected=f"an image that {annotations.name} lists", found="none", where=image, cure=f"unpack {name}"
            )
    ids = tuple(sorted(categories))
    return CocoSplit(name, annotations, folder, images, ids, tuple(categories[index] for index in ids))


def card(settings: TaskSettings, root: Path) -> DatasetCard:
    """The card of the data that a protocol's settings ask for, read from `root`; errors as for `read_split`."""
    assert isinstance(settings, DetectionSettings)
    return describe(root, [read_split(root, name) for name in (*settings.train_splits, settings.test_split)])


def describe(root: Path, splits: Sequence[CocoSplit]) -> DatasetCard:
    """Which data these splits are."""
    return DatasetCard(
        name="COCO " + ", ".join(split.name for split in splits),
        layout="coco",
        fingerprint=fingerprint(
            root,
            {image for split in splits for image in split.images},
            {split.annotations for split in splits},
        ),
        sample=any(is_sample(folder) for folder in (root, root.parent)),
        images={split.name: len(split.images) for split in splits},
    )
