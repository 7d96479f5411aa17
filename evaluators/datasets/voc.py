"""PASCAL VOC: `VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}`, read and checked before anything is trained.

A split is named by year and list: `2007_trainval` is `VOC2007/ImageSets/Main/trainval.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError
from converters.settings import nearest
from evaluators.datasets.card import DatasetCard
from evaluators.settings import TaskSettings
from evaluators.settings.detection import DetectionSettings

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class VocObject:
    """One annotated object."""

    class_index: int
    """Position in `CLASS_NAMES`."""
    box: Box
    """xmin, ymin, xmax, ymax in pixels, counted from 1, both ends inside the object (as in the files)."""
    difficult: bool
    """Used in training, ignored by the metric."""


@dataclass(frozen=True)
class VocImage:
    """One image with its objects."""

    id: str
    file: Path
    annotation: Path
    width: int
    height: int
    objects: tuple[VocObject, ...]


@dataclass(frozen=True)
class VocSplit:
    """One list of images."""

    name: str
    """As `2007_test`."""
    year: int
    folder: Path
    """`VOCdevkit/VOC<year>`."""
    list_file: Path
    images: tuple[VocImage, ...]


def devkit(root: Path) -> Path:
    """The folder `VOCdevkit` that `root` is, or holds.

    Raises:
        UserError: if `root` does not exist or has neither.
    """
    if not root.is_dir():
        raise UserError(expected="a folder with PASCAL VOC", found="none", where=root, cure="check the path")
    for candidate in (root / "VOCdevkit", root):
        if any(candidate.glob("VOC[0-9][0-9][0-9][0-9]")):
            return candidate
    raise UserError(
        expected="VOCdevkit/VOC2007 with JPEGImages, Annotations and ImageSets",
        found="no folder VOC<year>",
        where=root,
        cure="give the folder that holds VOCdevkit, or VOCdevkit itself",
    )


def read_split(root: Path, name: str, *, scored: bool = False) -> VocSplit:
    """Read the split `name`, such as `2007_trainval`, and check every file that it lists.

    Args:
        root: the folder that holds VOCdevkit, or VOCdevkit itself.
        name: year and list.
        scored: also require what the metric reads: pose, truncated, difficult, and whole pixels as coordinates.

    Raises:
        UserError: if a file is missing or damaged, a class is not VOC's, a box lies outside its image, or the split is
            empty.
    """
    match = re.fullmatch(r"(\d{4})_(\w+)", name)
    if match is None:
        raise UserError(expected="a split such as 2007_trainval", found=repr(name))
    year, subset = int(match[1]), match[2]
    folder = devkit(root) / f"VOC{year}"
    list_file = folder / "ImageSets" / "Main" / f"{subset}.txt"
    if not list_file.is_file():
        there = sorted(path.stem for path in list_file.parent.glob("*.txt") if "_" not in path.stem)
        raise UserError(
            expected=f"the list of the split {name}",
            found=f"none; there are: {', '.join(there)}" if there else "none",
            where=list_file,
            cure=f"unpack all of VOC{year}",
        )
    # A list per class has a second column, which is not part of the name.
    ids = [line.split()[0] for line in list_file.read_text().splitlines() if line.strip()]
    if not ids:
        raise UserError(expected="names of images", found="an empty list", where=list_file)
    return VocSplit(name, year, folder, list_file, tuple(_read_image(folder, image_id, scored) for image_id in ids))


def card(settings: TaskSettings, root: Path) -> DatasetCard:
    """The card of the data that a protocol's settings ask for, read from `root`; errors as for `read_split`."""
    assert isinstance(settings, DetectionSettings)
    return describe(root, [read_split(root, name) for name in (*settings.train_splits, settings.test_split)])


def describe(root: Path, splits: Sequence[VocSplit]) -> DatasetCard:
    """Which data these splits are. The fingerprint does not depend on which of the allowed roots was given."""
    base = devkit(root)
    # One image can be in several lists, as test and val overlap in a copy that someone cut down.
    images = {image for split in splits for image in split.images}
    return DatasetCard(
        name="PASCAL VOC " + ", ".join(split.name for split in splits),
        layout="voc",
        fingerprint=fingerprint(
            base,
            {image.file for image in images},
            {image.annotation for image in images} | {split.list_file for split in splits},
        ),
        sample=any(is_sample(folder) for folder in (base, base.parent)),
        images={split.name: len(split.images) for split in splits},
    )


def classes_present(images: Iterable[VocImage]) -> tuple[int, ...]:
    """The classes with at least one object that is not difficult: those whose AP is defined."""
    return tuple(sorted({thing.class_index for image in images for thing in image.objects if not thing.difficult}))


def _read_image(folder: Path, image_id: str, scored: bool) -> VocImage:
    file = folder / "JPEGImages" / f"{image_id}.jpg"
    annotation = folder / "Annotations" / f"{image_id}.xml"
    for path, what in ((file, "image"), (annotation, "annotation")):
        if not path.is_file():
            raise UserError(
                expected=f"the {what} of {image_id}, which the split lists",
                found="none",
                where=path,
                cure="unpack the data set again",
            )
    try:
        with Image.open(file) as image:  # reads the header alone
            width, height = image.size
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(expected="a JPEG image", found=f"a damaged file ({error})", where=file) from None
    try:
        tree = ElementTree.parse(annotation)  # noqa: S314 - its parser resolves no external entity
    except ElementTree.ParseError as error:
        raise UserError(expected="an XML annotation", found=f"a damaged file ({error})", where=annotation) from None
    size = tuple(_whole(tree.getroot(), f"size/{side}", annotation) for side in ("width", "height"))
    if size != (width, height):
        raise UserError(
            expected=f"an image of {size[0]}x{size[1]} pixels",
            found=f"{width}x{height}",
            where=file,
            cure="see its XML",
        )
    if scored:
        for node in tree.iterfind("object"):
            for field in ("pose", "truncated", "difficult"):
                _text(node, field, annotation)
            for side in ("xmin", "ymin", "xmax", "ymax"):
                _whole(node, f"bndbox/{side}", annotation)
    objects = tuple(_read_object(node, width, height, annotation) for node in tree.iterfind("object"))
    return VocImage(image_id, file, annotation, width, height, objects)


def _read_object(node: ElementTree.Element, width: int, height: int, where: Path) -> VocObject:
    name = _text(node, "name", where)
    if name not in CLASS_NAMES:
        raise UserError(
            expected="a class of PASCAL VOC", found=repr(name), where=where, cure=nearest(name, CLASS_NAMES)
        )
    xmin, ymin, xmax, ymax = (_number(node, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax"))
    if not (1 <= xmin <= xmax <= width and 1 <= ymin <= ymax <= height):
        raise UserError(
            expected=f"a box inside 1..{width} x 1..{height}, counted from 1",
            found=f"{xmin:g},{ymin:g},{xmax:g},{ymax:g}",
            where=where,
        )
    return VocObject(CLASS_NAMES.index(name), (xmin, ymin, xmax, ymax), _text(node, "difficult", where, "0") == "1")


def _text(node: ElementTree.Element, path: str, where: Path, default: str | None = None) -> str:
    text = node.findtext(path, default)
    if text is None:
        raise UserError(expected=f"the field {path}", found="none", where=where)
    return text.strip()


def _number(node: ElementTree.Element, path: str, where: Path) -> float:
    text = _text(node, path, where)
    try:
        return float(text)
    except ValueError:
        raise UserError(expected=f"a number in the field {path}", found=repr(text), where=where) from None


def _whole(node: ElementTree.Element, path: str, where: Path) -> int:
    text = _text(node, path, where)
    if not text.isdecimal():
        raise UserError(expected=f"a whole number in the field {path}", found=repr(text), where=where)
    return int(text)
