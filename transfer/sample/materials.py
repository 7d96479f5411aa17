"""The photographs behind the sample data, and the fixed map from them to the classes of each layout.

Every distinct photograph that scikit-learn and scikit-image ship inside their wheels is one class, a *material*. Train
takes the left half of each photograph, val the right half; where a half would show nothing of its material, the cut
lies elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.errors import MissingPackage, UserError

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""PASCAL VOC's classes, in the order of its development kit."""

CITYSCAPES_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""Cityscapes' evaluated classes in the order of their train ids (0 to 18), with their label ids
(cityscapesScripts, helpers/labels.py)."""


class Material(NamedTuple):
    """One class: where its photograph lies, and which class it takes in layouts that have their own lists.

    The names of VOC and Cityscapes are borrowed, so that every tool for these layouts reads the data. Some hint at the
    photograph; none claims to show that class.
    """

    name: str
    """Its own name: the class in the image folder and in COCO."""
    package: Literal["sklearn", "skimage"]
    file: str
    """Relative to the package's folder."""
    voc: str
    cityscapes: str
    axis: Literal["x", "y"] = "x"
    """Along which the photograph is cut: `x` into left and right, `y` into top and bottom."""
    cut: float = 0.5
    """Where, in parts of the width or height."""


MATERIALS = (
    Material("astronaut", "skimage", "data/astronaut.png", "person", "person"),
    Material("brick", "skimage", "data/brick.png", "sofa", "wall"),
    Material("camera", "skimage", "data/camera.png", "motorbike", "pole"),
    # One cell in an empty field: the cut goes through its middle.
    Material("cell", "skimage", "data/cell.png", "cow", "motorcycle", axis="y", cut=0.57),
    Material("chelsea", "skimage", "data/chelsea.png", "cat", "rider"),
    Material("china", "sklearn", "datasets/images/china.jpg", "bus", "building"),
    Material("clock", "skimage", "data/clock_motion.png", "tvmonitor", "traffic light"),
    Material("coffee", "skimage", "data/coffee.png", "bottle", "car"),
    Material("coins", "skimage", "data/coins.png", "bicycle", "bicycle"),
    Material("flower", "sklearn", "datasets/images/flower.jpg", "pottedplant", "terrain"),
    Material("grass", "skimage", "data/grass.png", "sheep", "vegetation"),
    Material("gravel", "skimage", "data/gravel.png", "train", "road"),
    Material("hubble_deep_field", "skimage", "data/hubble_deep_field.jpg", "bird", "sky"),
    Material("immunohistochemistry", "skimage", "data/ihc.png", "horse", "truck"),
    Material("moon", "skimage", "data/moon.png", "boat", "sidewalk"),
    Material("page", "skimage", "data/page.png", "diningtable", "fence"),
    Material("retina", "skimage", "data/retina.jpg", "dog", "bus"),
    Material("rocket", "skimage", "data/rocket.jpg", "aeroplane", "train"),
    Material("text", "skimage", "data/text.png", "chair", "traffic sign"),
)
"""All materials; the place in this list is the class index. VOC's `car` stays without a material."""

DISTRIBUTIONS = {"sklearn": "scikit-learn", "skimage": "scikit-image"}


@dataclass(frozen=True)
class Half:
    """One part of a photograph, about half of it."""

    image: Image.Image
    """RGB."""

    @property
    def short_side(self) -> int:
        """Pixels."""
        return min(self.image.size)

    def contrast(self, left: int, top: int, right: int, bottom: int) -> float:
        """The standard deviation of the brightness (0 to 255) in a half-open box."""
        n = (right - left) * (bottom - top)
        first, second = (
            int(table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left])
            for table in self._sums
        )
        return float(np.sqrt((second * n - first * first) / n**2))

    @cached_property
    def _sums(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Summed-area tables of the brightness and of its square: they make `contrast` cheap and exact."""
        brightness = np.asarray(self.image.convert("L"), dtype=np.int64)
        first, second = (np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0))) for values in (brightness, brightness**2))
        return first, second


@dataclass(frozen=True)
class Photograph:
    """A material's photograph, cut in two."""

    train: Half
    """The left or top part."""
    val: Half
    """The right or bottom part."""
    sha256: str
    """Of the file."""

    def half(self, split: Split) -> Half:
        """The half that a split is made of."""
        return self.train if split == "train" else self.val


def cut_in_two(content: bytes, axis: Literal["x", "y"] = "x", cut: float = 0.5) -> Photograph:
    """The photograph in an image file's bytes; a grey one becomes RGB."""
    with Image.open(io.BytesIO(content)) as file:
        image = file.convert("RGB")
    width, height = image.size
    if axis == "x":
        at = int(width * cut)
        boxes = (0, 0, at, height), (at, 0, width, height)
    else:
        at = int(height * cut)
        boxes = (0, 0, width, at), (0, at, width, height)
    train, val = (Half(image.crop(box)) for box in boxes)
    return Photograph(train, val, sha256=hashlib.sha256(content).hexdigest())


def read_photographs() -> tuple[Photograph, ...]:
    """The photographs of `MATERIALS`, from the folders of the installed packages; nothing is downloaded.

    Raises:
        MissingPackage: if scikit-learn or scikit-image is not installed.
        UserError: if a package does not hold a photograph.
    """
    return tuple(cut_in_two(_read(material), material.axis, material.cut) for material in MATERIALS)


def _read(material: Material) -> bytes:
    path = _folder(material.package) / material.file
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            expected=f"the photograph of {material.name!r} in {DISTRIBUTIONS[material.package]}",
            found=error.strerror or type(error).__name__,
            where=path,
            cure=f"install {DISTRIBUTIONS[material.package]} again, from its wheel",
        ) from None


def _folder(package: str) -> Path:
    # The package's own loaders are avoided: scikit-image's would try a download for a file that is not there.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = DISTRIBUTIONS[package]
        raise MissingPackage(distribution, f"pip install {distribution}", "the photographs of the sample data")
    return Path(spec.submodule_search_locations[0])
