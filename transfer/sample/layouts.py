"""The four layouts in which the sample data is written. Each writer takes items one by one and then `finish`es."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from transfer.sample.materials import CITYSCAPES_IDS, MATERIALS, SPLITS, VOC_CLASSES, Split
from transfer.sample.scenes import Mask, Scene

SOURCE = "generated sample data of moco-transfer"
_VAL_OFFSET = 500_000  # numbers of val scenes start behind it, so that they do not depend on how many train scenes are


class SceneWriter(Protocol):
    """What the three layouts of scenes have in common."""

    def add(self, split: Split, index: int, scene: Scene, jpeg: bytes) -> None:
        """Write the scene number `index` (from 0) of a split; `jpeg` is its image, encoded."""

    def finish(self) -> None:
        """Write what lists all scenes."""


def scene_number(split: Split, index: int) -> int:
    """The number of a scene, the same in all layouts: 1, 2, … in train, 500001, 500002, … in val."""
    return index + 1 + (_VAL_OFFSET if split == "val" else 0)


class ImageFolder:
    """`{train,val}/MATERIAL/NNNNNN.png`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for split in SPLITS:
            for material in MATERIALS:
                (root / split / material.name).mkdir(parents=True)

    def add(self, split: Split, material: int, index: int, image: Image.Image) -> None:
        """Write one crop."""
        path = self._root / split / MATERIALS[material].name / f"{index:06d}.png"
        path.write_bytes(_png(image))

    @staticmethod
    def classes() -> dict[str, Any]:
        """Material -> class of this layout."""
        return {material.name: material.name for material in MATERIALS}


class Voc:
    """`VOCdevkit/VOC2007`: train scenes are `trainval` (every fifth of them `val`), val scenes are `test`.

    Boxes have VOC's 1-based inclusive pixel coordinates. VOC's class `car` has no instance.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / "VOCdevkit" / "VOC2007"
        self._lists: dict[str, list[str]] = {name: [] for name in ("trainval", "train", "val", "test")}
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (self._root / folder).mkdir(parents=True)

    def add(self, split: Split, index: int, scene: Scene, jpeg: bytes) -> None:
        """Write one scene."""
        name = f"{scene_number(split, index):06d}"
        (self._root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg)
        (self._root / "Annotations" / f"{name}.xml").write_bytes(self._annotation(name, scene))
        lists = ("test",) if split == "val" else ("trainval", "val" if index % 5 == 4 else "train")
        for key in lists:
            self._lists[key].append(name)

    def finish(self) -> None:
        """Write the image sets."""
        for key, names in self._lists.items():
            path = self._root / "ImageSets" / "Main" / f"{key}.txt"
            path.write_text("".join(f"{name}\n" for name in names), encoding="ascii", newline="\n")

    @staticmethod
    def classes() -> dict[str, Any]:
        """Material -> class of this layout."""
        assert all(material.voc in VOC_CLASSES for material in MATERIALS)
        return {material.name: material.voc for material in MATERIALS}

    @staticmethod
    def _annotation(name: str, scene: Scene) -> bytes:
        height, width = scene.image.shape[:2]
        root = ET.Element("annotation")
        _texts(root, folder="VOC2007", filename=f"{name}.jpg")
        _texts(ET.SubElement(root, "source"), database=SOURCE)
        _texts(ET.SubElement(root, "size"), width=width, height=height, depth=3)
        _texts(root, segmented=0)
        for patch in scene.patches:
            left, top, right, bottom = patch.box
            node = ET.SubElement(root, "object")
            _texts(node, name=MATERIALS[patch.material].voc, pose="Unspecified")
            _texts(node, truncated=int(patch.truncated), difficult=0)
            _texts(ET.SubElement(node, "bndbox"), xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
        ET.indent(root, "\t")
        encoded: bytes = ET.tostring(root, encoding="utf-8")
        return encoded + b"\n"


class Coco:
    """`{train,val}2017` and `annotations/instances_{train,val}2017.json`; masks are exact, as uncompressed RLE."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._annotations: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for folder in ("train2017", "val2017", "annotations"):
            (root / folder).mkdir(parents=True)

    def add(self, split: Split, index: int, scene: Scene, jpeg: bytes) -> None:
        """Write one scene."""
        number = scene_number(split, index)
        height, width = scene.image.shape[:2]
        file_name = f"{number:012d}.jpg"
        (self._root / f"{split}2017" / file_name).write_bytes(jpeg)
        self._images[split].append({"id": number, "file_name": file_name, "width": width, "height": height})
        for patch in scene.patches:
            left, top, right, bottom = patch.box
            self._annotations[split].append(
                {
                    # Evaluators take the id 0 for "no match".
                    "id": len(self._annotations[split]) + 1,
                    "image_id": number,
                    "category_id": patch.material + 1,
                    "iscrowd": 0,
                    "area": int(patch.mask.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": {"size": [height, width], "counts": run_lengths(patch.mask)},
                }
            )

    def finish(self) -> None:
        """Write the annotations."""
        categories = [
            {"id": index + 1, "name": material.name, "supercategory": "material"}
            for index, material in enumerate(MATERIALS)
        ]
        for split in SPLITS:
            content = {
                "info": {"description": SOURCE},
                "licenses": [],
                "images": self._images[split],
                "annotations": self._annotations[split],
                "categories": categories,
            }
            path = self._root / "annotations" / f"instances_{split}2017.json"
            path.write_text(json.dumps(content, separators=(",", ":")), encoding="ascii", newline="\n")

    @staticmethod
    def classes() -> dict[str, Any]:
        """Material -> class of this layout."""
        return {material.name: {"name": material.name, "id": index + 1} for index, material in enumerate(MATERIALS)}


class Cityscapes:
    """`leftImg8bit` and `gtFine` with label ids, train ids and instance ids.

    Instance ids are `1000 * label id + i` for patches, as Cityscapes has them for things, and the plain label id for
    the background, as it has them for stuff.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        names = list(CITYSCAPES_IDS)
        self._train_ids = np.array([names.index(material.cityscapes) for material in MATERIALS], dtype=np.uint8)
        self._label_ids = np.array([CITYSCAPES_IDS[material.cityscapes] for material in MATERIALS], dtype=np.uint8)
        for kind in ("leftImg8bit", "gtFine"):
            for split in SPLITS:
                (root / kind / split / "sample").mkdir(parents=True)

    def add(self, split: Split, index: int, scene: Scene, jpeg: bytes) -> None:  # noqa: ARG002 - stored as PNG here
        """Write one scene."""
        label_ids = self._label_ids[scene.materials]
        instance_ids = label_ids.astype(np.uint16)
        for patch in scene.patches:
            # The materials of a scene differ, so each patch is number 0 of its class.
            instance_ids[patch.mask] *= 1000
        self._write("leftImg8bit", split, index, "leftImg8bit", scene.image)
        self._write("gtFine", split, index, "gtFine_labelIds", label_ids)
        self._write("gtFine", split, index, "gtFine_labelTrainIds", self._train_ids[scene.materials])
        self._write("gtFine", split, index, "gtFine_instanceIds", instance_ids)

    def finish(self) -> None:
        """Nothing lists the scenes in this layout."""

    @staticmethod
    def classes() -> dict[str, Any]:
        """Material -> class of this layout."""
        names = list(CITYSCAPES_IDS)
        return {
            material.name: {
                "name": material.cityscapes,
                "id": CITYSCAPES_IDS[material.cityscapes],
                "train_id": names.index(material.cityscapes),
            }
            for material in MATERIALS
        }

    def _write(
        self, kind: str, split: Split, index: int, suffix: str, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    ) -> None:
        name = f"sample_{scene_number(split, index):06d}_000000_{suffix}.png"
        (self._root / kind / split / "sample" / name).write_bytes(_png(Image.fromarray(pixels)))


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An (H, W, 3) RGB image at quality 95, colours at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed RLE: run lengths down the columns, the first of them background (0 where there is none)."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs: list[int] = np.diff(edges).tolist()
    return [0, *runs] if flat[0] else runs


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _texts(node: ET.Element, **texts: str | int) -> None:
    for tag, text in texts.items():
        ET.SubElement(node, tag).text = str(text)
