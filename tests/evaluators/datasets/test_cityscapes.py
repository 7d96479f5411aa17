from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.errors import UserError
from evaluators.datasets import cityscapes
from evaluators.datasets.card import card
from evaluators.protocols import CATALOGUE
from tests.evaluators import scenes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return scenes.write_cityscapes(tmp_path, {"train": scenes.scenes(3, 32, 0), "val": scenes.scenes(2, 32, 1)})


def label(root: Path) -> Path:
    return root / "gtFine" / "train" / "town" / "town_000001_000019_gtFine_labelTrainIds.png"


def test_images_are_paired_with_their_label_maps(root: Path) -> None:
    split = cityscapes.read_split(root, "train")
    assert [path.name for path in split.images] == [f"town_{n:06d}_000019_leftImg8bit.png" for n in range(3)]
    assert split.labels[1] == label(root)


def test_the_fingerprint_follows_the_labels(root: Path) -> None:
    settings = CATALOGUE["quickstart-segmentation@1"].settings
    first = card(settings, root)
    assert first.images == {"train": 3, "val": 2}
    assert first.layout == "cityscapes"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(label(root))
    assert card(settings, root).fingerprint != first.fingerprint


def test_labels_that_were_never_made_name_their_cure(root: Path) -> None:
    label(root).rename(label(root).with_name("town_000001_000019_gtFine_labelIds.png"))
    with pytest.raises(UserError, match="found none; make them from labelIds with cityscapesscripts: csCreateTrainId"):
        cityscapes.read_split(root, "train")


def test_absent_labels(root: Path) -> None:
    label(root).unlink()
    with pytest.raises(UserError, match="unpack gtFine beside leftImg8bit"):
        cityscapes.read_split(root, "train")


def test_label_ids_under_the_name_of_train_ids_are_seen(root: Path) -> None:
    Image.fromarray(np.full((32, 32), 33, np.uint8)).save(label(root))
    with pytest.raises(UserError, match="expected train ids 0 to 18, or 255 for ignored, found the value 33"):
        cityscapes.read_split(root, "train")


def test_a_label_map_of_another_size_is_seen(root: Path) -> None:
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(label(root))
    with pytest.raises(UserError, match="expected one label a pixel, 32x32, found 32x16"):
        cityscapes.read_split(root, "train")


def test_a_damaged_label_map_is_seen(root: Path) -> None:
    label(root).write_bytes(label(root).read_bytes()[:60])
    with pytest.raises(UserError, match="expected a PNG image, found a damaged file"):
        cityscapes.read_split(root, "train")


def test_wrong_roots_and_empty_splits(root: Path) -> None:
    with pytest.raises(UserError, match="expected a folder with Cityscapes, found none"):
        cityscapes.read_split(root / "absent", "train")
    with pytest.raises(UserError, match=r"expected the split test of Cityscapes.*holds leftImg8bit and gtFine"):
        cityscapes.read_split(root, "test")
    for image in (root / "leftImg8bit" / "val" / "town").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"expected images \*_leftImg8bit.png"):
        cityscapes.read_split(root, "val")
