"""Tiny scenes of coloured rectangles on noise, written in the layouts of VOC, COCO and Cityscapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("aeroplane", "bicycle", "bird")
COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230]])


@dataclass(frozen=True)
class Thing:
    """A rectangle: its class, and the first and last pixel inside it, counted from 0."""

    kind: int
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Scene:
    pixels: np.ndarray
    things: tuple[Thing, ...]


def scenes(count: int, side: int, seed: int) -> list[Scene]:
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        pixels = draw.integers(0, 120, (side, side, 3))
        things = []
        for _ in range(2):
            kind = int(draw.integers(len(NAMES)))
            width, height = (int(size) for size in draw.integers(side // 4, side // 2, 2))
            left, top = int(draw.integers(side - width)), int(draw.integers(side - height))
            things.append(Thing(kind, left, top, left + width - 1, top + height - 1))
            pixels[top : top + height, left : left + width] = COLOURS[kind] + draw.integers(-30, 30, (height, width, 3))
        made.append(Scene(pixels.clip(0, 255).astype(np.uint8), tuple(things)))
    return made


def write_voc(root: Path, splits: Mapping[str, Sequence[Scene]], year: int = 2007) -> Path:
    """Write `root/VOCdevkit/VOC<year>` and return it."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    number = 0
    for split, content in splits.items():
        ids = []
        for scene in content:
            number += 1
            ids.append(f"{number:06d}")
            Image.fromarray(scene.pixels).save(folder / "JPEGImages" / f"{ids[-1]}.jpg", quality=95)
            (folder / "Annotations" / f"{ids[-1]}.xml").write_text(voc_xml(scene))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))
    return folder


def voc_xml(scene: Scene, names: Sequence[str] = NAMES) -> str:
    height, width, _ = scene.pixels.shape
    objects = "".join(
        f"<object><name>{names[thing.kind]}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>0</difficult><bndbox><xmin>{thing.left + 1}</xmin><ymin>{thing.top + 1}</ymin>"
        f"<xmax>{thing.right + 1}</xmax><ymax>{thing.bottom + 1}</ymax></bndbox></object>"
        for thing in scene.things
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def write_coco(root: Path, splits: Mapping[str, Sequence[Scene]]) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        (root / split).mkdir()
        images, objects = [], []
        for number, scene in enumerate(content, 1):
            height, width, _ = scene.pixels.shape
            name = f"{number:012d}.jpg"
            Image.fromarray(scene.pixels).save(root / split / name, quality=95)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for thing in scene.things:
                box = [thing.left, thing.top, thing.right - thing.left + 1, thing.bottom - thing.top + 1]
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": number,
                        "category_id": 10 * (thing.kind + 1),  # COCO's ids have gaps
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 10 * (kind + 1), "name": name} for kind, name in enumerate(NAMES)]
        (root / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": objects, "categories": categories})
        )
    return root


def label_map(scene: Scene) -> np.ndarray:
    """Train ids: 10 (sky) for the noise, 255 for its lowest rows, and 0, 1, 2 for the rectangles."""
    labels = np.full(scene.pixels.shape[:2], 10, np.uint8)
    labels[-4:] = 255
    for thing in scene.things:
        labels[thing.top : thing.bottom + 1, thing.left : thing.right + 1] = thing.kind
    return labels


def write_cityscapes(root: Path, splits: Mapping[str, Sequence[Scene]]) -> Path:
    for split, content in splits.items():
        for number, scene in enumerate(content):
            images, labels = root / "leftImg8bit" / split / "town", root / "gtFine" / split / "town"
            images.mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)
            stem = f"town_{number:06d}_000019"
            Image.fromarray(scene.pixels).save(images / f"{stem}_leftImg8bit.png")
            Image.fromarray(label_map(scene)).save(labels / f"{stem}_gtFine_labelTrainIds.png")
    return root
