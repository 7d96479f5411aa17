"""Each layout, read by the tools that people read it with, against the others and against naive recomputation."""

from __future__ import annotations

import contextlib
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.datasets import ImageFolder, VOCDetection

from converters.dataset_fingerprint import SAMPLE_MARKER
from transfer.sample.generate import SIZES, generate
from transfer.sample.layouts import run_lengths

# pycocotools' decoder follows NumPy 1's array protocol; NumPy 2 says so and goes on.
decodes = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

COUNTS = {"train": SIZES["tiny"].scenes_train, "val": SIZES["tiny"].scenes_val}
FIRST = {"train": 1, "val": 500_001}

VOC_NAMES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip

# Cityscapes' label ids in the order of train ids 0 … 18, as its paper's evaluation lists the classes.
CITYSCAPES_LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "out"
    generate(out, SIZES["tiny"], seed=0)
    return out


def scene_numbers() -> list[tuple[str, int]]:
    return [(split, FIRST[split] + index) for split in COUNTS for index in range(COUNTS[split])]


def cityscapes(root: Path, split: str, number: int, suffix: str) -> npt.NDArray[Any]:
    kind = "leftImg8bit" if suffix == "leftImg8bit" else "gtFine"
    path = root / "cityscapes" / kind / split / "sample" / f"sample_{number:06d}_000000_{suffix}.png"
    with Image.open(path) as image:
        return np.array(image)


def instance_masks(root: Path, split: str, number: int) -> dict[int, npt.NDArray[np.bool_]]:
    """Cityscapes label id -> mask, of the patches of a scene."""
    ids = cityscapes(root, split, number, "gtFine_instanceIds")
    return {int(value) // 1000: ids == value for value in np.unique(ids) if value >= 1000}


def classes(root: Path, layout: str) -> dict[str, Any]:
    marker = json.loads((root / layout / SAMPLE_MARKER).read_text())
    mapping: dict[str, Any] = marker["classes"]
    return mapping


def load_coco(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "coco" / "annotations" / f"instances_{split}2017.json"))


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("val", 4)])
def test_torchvision_reads_the_image_folder(root: Path, split: str, count: int) -> None:
    folder = ImageFolder(str(root / "images" / split))
    assert folder.classes == sorted(classes(root, "images"))
    assert len(folder.classes) == 19
    assert np.bincount(folder.targets).tolist() == [count] * 19
    assert {image.size for image, _ in folder} == {(64, 64)}
    assert {image.mode for image, _ in folder} == {"RGB"}


def test_crops_of_a_class_differ_and_show_something(root: Path) -> None:
    for folder in sorted((root / "images" / "train").iterdir()):
        crops = [np.array(Image.open(path).convert("L"), dtype=float) for path in sorted(folder.iterdir())]
        assert len({crop.tobytes() for crop in crops}) == len(crops)
        assert max(crop.std() for crop in crops) > 8, folder.name


@decodes
def test_coco_masks_are_the_instances_of_cityscapes(root: Path) -> None:
    label_ids = {name: entry["id"] for name, entry in classes(root, "cityscapes").items()}
    seen = 0
    for split, count in COUNTS.items():
        coco = load_coco(root, split)
        assert len(coco.imgs) == count
        assert {c["name"]: c["id"] for c in coco.cats.values()} == {
            name: entry["id"] for name, entry in classes(root, "coco").items()
        }
        for number in coco.imgs:
            annotations = coco.imgToAnns[number]
            expected = instance_masks(root, split, number)
            assert 2 <= len(annotations) <= 5
            assert len(annotations) == len(expected)
            for annotation in annotations:
                mask = coco.annToMask(annotation).astype(bool)
                assert np.array_equal(mask, expected[label_ids[coco.cats[annotation["category_id"]]["name"]]])
                assert annotation["area"] == mask.sum()
                assert annotation["bbox"] == coco_mask.toBbox(coco.annToRLE(annotation)).tolist()
                assert annotation["iscrowd"] == 0
                seen += 1
    assert seen > 60


def test_coco_ids_are_unique_and_never_zero(root: Path) -> None:
    images = []
    for split in COUNTS:
        content = json.loads((root / "coco" / "annotations" / f"instances_{split}2017.json").read_text())
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert len(set(ids)) == len(ids)
        assert 0 not in ids
        images += [image["id"] for image in content["images"]]
    assert len(set(images)) == sum(COUNTS.values())


def test_ground_truth_scores_full_marks_in_coco_evaluation(root: Path) -> None:
    truth = load_coco(root, "val")
    detections = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth.anns.values()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_voc_boxes_are_the_boxes_of_the_instances(root: Path) -> None:
    base = root / "voc" / "VOCdevkit" / "VOC2007"
    voc_name = {entry["id"]: classes(root, "voc")[material] for material, entry in classes(root, "cityscapes").items()}
    truncated = []
    for split, number in scene_numbers():
        expected = {}
        for label_id, mask in instance_masks(root, split, number).items():
            rows, columns = np.nonzero(mask)
            # VOC counts pixels from 1; both ends belong to the box.
            expected[voc_name[label_id]] = [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
        tree = ET.parse(base / "Annotations" / f"{number:06d}.xml")
        objects = tree.findall("object")
        found = {
            node.findtext("name"): [int(node.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
            for node in objects
        }
        assert found == expected
        assert len(objects) == len(expected)
        assert set(found) <= set(VOC_NAMES)
        assert {node.findtext("difficult") for node in objects} == {"0"}
        truncated += [node.findtext("truncated") for node in objects]
        with Image.open(base / "JPEGImages" / tree.findtext("filename")) as image:
            assert image.size == (int(tree.findtext("size/width")), int(tree.findtext("size/height")))
    assert set(truncated) == {"0", "1"}


def test_voc_marks_no_patch_truncated_that_lies_free(root: Path) -> None:
    """One that touches neither the frame nor another patch shows all of itself."""
    names = {entry["id"]: classes(root, "voc")[material] for material, entry in classes(root, "cityscapes").items()}
    free = 0
    for split, number in scene_numbers():
        tree = ET.parse(root / "voc" / "VOCdevkit" / "VOC2007" / "Annotations" / f"{number:06d}.xml")
        flags = {node.findtext("name"): node.findtext("truncated") for node in tree.findall("object")}
        masks = instance_masks(root, split, number)
        for label_id, mask in masks.items():
            padded = np.pad(mask, 1)
            near = np.zeros_like(padded)
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                near |= np.roll(padded, (down, right), axis=(0, 1))
            frame = near.copy()
            frame[1:-1, 1:-1] = False
            others = np.any([other for key, other in masks.items() if key != label_id], axis=0)
            if not frame.any() and not (near[1:-1, 1:-1] & others).any():
                assert flags[names[label_id]] == "0"
                free += 1
    assert free > 5


def test_voc_image_sets(root: Path) -> None:
    sets = {
        path.stem: path.read_text().split()
        for path in (root / "voc" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main").iterdir()
    }
    assert sets.keys() == {"train", "val", "trainval", "test"}
    assert sorted(sets["train"] + sets["val"]) == sets["trainval"]
    assert sets["trainval"] == [f"{number:06d}" for split, number in scene_numbers() if split == "train"]
    assert sets["test"] == [f"{number:06d}" for split, number in scene_numbers() if split == "val"]
    assert len(sets["val"]) == 4


def test_torchvision_reads_voc(root: Path) -> None:
    data = VOCDetection(str(root / "voc"), year="2007", image_set="test")
    assert len(data) == COUNTS["val"]
    image, target = data[0]
    assert image.size == (128, 128)
    assert target["annotation"]["source"]["database"].startswith("generated sample data")


def test_cityscapes_ids(root: Path) -> None:
    all_train_ids = set()
    for split, number in scene_numbers():
        train_ids = cityscapes(root, split, number, "gtFine_labelTrainIds")
        label_ids = cityscapes(root, split, number, "gtFine_labelIds")
        instance_ids = cityscapes(root, split, number, "gtFine_instanceIds")
        assert train_ids.dtype == label_ids.dtype == np.uint8
        assert instance_ids.dtype == np.uint16
        assert train_ids.max() <= 18
        assert np.array_equal(np.array(CITYSCAPES_LABEL_IDS)[train_ids], label_ids)
        patches = instance_ids >= 1000
        assert np.array_equal(instance_ids[patches] // 1000, label_ids[patches])
        assert np.array_equal(instance_ids[~patches], label_ids[~patches])
        # One background material, which no patch has.
        background = np.unique(label_ids[~patches])
        assert len(background) == 1
        assert background[0] not in label_ids[patches]
        all_train_ids |= set(np.unique(train_ids).tolist())
    assert all_train_ids == set(range(19))


def test_layouts_show_the_same_scene(root: Path) -> None:
    for split, number in scene_numbers():
        exact = cityscapes(root, split, number, "leftImg8bit").astype(float)
        voc = (root / "voc/VOCdevkit/VOC2007/JPEGImages" / f"{number:06d}.jpg").read_bytes()
        assert voc == (root / "coco" / f"{split}2017" / f"{number:012d}.jpg").read_bytes()
        assert exact.shape == (128, 128, 3)
        assert np.abs(np.array(Image.open(io.BytesIO(voc)), dtype=float) - exact).mean() < 3


@decodes
@given(arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_run_lengths_decode_to_the_mask(mask: npt.NDArray[np.bool_]) -> None:
    height, width = mask.shape
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": run_lengths(mask)}, height, width)
    assert np.array_equal(coco_mask.decode(encoded).astype(bool), mask)
