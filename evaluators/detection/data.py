"""Checked splits under names of their own in detectron2's catalogues, with the evaluator of their layout."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import BoxMode

from converters.errors import UserError
from evaluators.datasets import coco, voc
from evaluators.datasets.card import DatasetCard
from evaluators.settings.detection import DetectionSettings

_counter = itertools.count()


@dataclass(frozen=True)
class Registered:
    """A data set under its names in the catalogues."""

    train: tuple[str, ...]
    test: str
    card: DatasetCard
    test_images: int
    evaluator: Any
    """A `DatasetEvaluator` whose result has `bbox` with AP, AP50 and AP75 in percent."""


@contextlib.contextmanager
def registered(settings: DetectionSettings, root: Path, output: Path) -> Iterator[Registered]:
    """Read the splits and register them inside the block.

    Names start with `moco_transfer`, so that they never meet detectron2's built-in ones.

    Raises:
        UserError: for a data set that is not as its layout asks, or has another number of classes than the protocol.
    """
    names = [f"moco_transfer_{next(_counter)}_{split}" for split in (*settings.train_splits, settings.test_split)]
    register = {"voc": _register_voc, "coco": _register_coco}[settings.layout]
    try:
        yield register(settings, root, output, names)
    finally:
        for name in names:
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
            if name in MetadataCatalog.list():
                MetadataCatalog.remove(name)


def voc_dicts(images: Sequence[voc.VocImage]) -> list[dict[str, Any]]:
    """In detectron2's format. A box counted from 1 with both ends inside becomes one of coordinates: xmin-1, ymin-1.

    Difficult objects are trained on, as in the reference (detectron2@72e9dd6, data/datasets/pascal_voc.py).
    """
    return [
        {
            "file_name": str(image.file),
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "annotations": [
                {
                    "category_id": thing.class_index,
                    "bbox": [thing.box[0] - 1, thing.box[1] - 1, thing.box[2], thing.box[3]],
                    "bbox_mode": BoxMode.XYXY_ABS,
                }
                for thing in image.objects
            ],
        }
        for image in images
    ]


class VocEvaluator(PascalVOCDetectionEvaluator):  # type: ignore[misc]  # detectron2 ships no types
    """detectron2's VOC metric, averaged over the classes that the test split has.

    The parent gives a class without any object AP 0 and averages it in. VOC 2007 test has all 20 classes, so there the
    two are one.
    """

    _class_names: list[str]
    _predictions: dict[int, list[str]]

    def __init__(self, dataset_name: str, present: Sequence[int]) -> None:
        super().__init__(dataset_name)
        self._present = tuple(present)
        self._class_names = [self._class_names[index] for index in present]

    def evaluate(self) -> Any:
        """AP, AP50 and AP75 in percent, below `bbox`."""
        self._predictions = {
            position: self._predictions[index]
            for position, index in enumerate(self._present)
            if index in self._predictions
        }
        return super().evaluate()


def _register_voc(settings: DetectionSettings, root: Path, output: Path, names: list[str]) -> Registered:  # noqa: ARG001
    train = [voc.read_split(root, split) for split in settings.train_splits]
    test = voc.read_split(root, settings.test_split, scored=True)
    _check_classes(settings, len(voc.CLASS_NAMES), "PASCAL VOC")
    present = voc.classes_present(test.images)
    if not present or not any(image.objects for split in train for image in split.images):
        raise UserError(expected="objects in the training and the test split", found="none", where=root)
    for name, split in zip(names, (*train, test), strict=True):
        dicts = voc_dicts(split.images)
        DatasetCatalog.register(name, lambda dicts=dicts: dicts)
        MetadataCatalog.get(name).set(
            thing_classes=list(voc.CLASS_NAMES), dirname=str(split.folder), year=split.year, split=split.list_file.stem
        )
    return Registered(
        train=tuple(names[:-1]),
        test=names[-1],
        card=voc.describe(root, [*train, test]),
        test_images=len(test.images),
        evaluator=VocEvaluator(names[-1], present),
    )


def _register_coco(settings: DetectionSettings, root: Path, output: Path, names: list[str]) -> Registered:
    splits = [coco.read_split(root, split) for split in (*settings.train_splits, settings.test_split)]
    for name, split in zip(names, splits, strict=True):
        if split.category_names != splits[0].category_names:
            raise UserError(expected=f"the categories of {splits[0].name}", found="others", where=split.annotations)
        _check_classes(settings, len(split.category_ids), str(split.annotations))
        # Read once here, for the loader asks again, and it fills in the category map that the evaluator needs.
        dicts = load_coco_json(str(split.annotations), str(split.folder), name)
        DatasetCatalog.register(name, lambda dicts=dicts: dicts)
        MetadataCatalog.get(name).set(json_file=str(split.annotations), image_root=str(split.folder))
    return Registered(
        train=tuple(names[:-1]),
        test=names[-1],
        card=coco.describe(root, splits),
        test_images=len(splits[-1].images),
        # The C++ evaluation is not in every detectron2; pycocotools gives the same numbers.
        evaluator=COCOEvaluator(names[-1], ("bbox",), distributed=False, output_dir=str(output), use_fast_impl=False),
    )


def _check_classes(settings: DetectionSettings, found: int, where: str) -> None:
    if settings.num_classes != found:
        raise UserError(
            expected=f"{settings.num_classes} classes, as the protocol declares",
            found=str(found),
            where=where,
            cure=f"override it with: --set num_classes={found}",
        )
