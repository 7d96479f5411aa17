from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from converters.errors import UserError
from evaluators.datasets import coco
from tests.evaluators import scenes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return scenes.write_coco(tmp_path, {"train2017": scenes.scenes(3, 32, 0), "val2017": scenes.scenes(2, 32, 1)})


def test_category_ids_with_gaps_become_positions(root: Path) -> None:
    split = coco.read_split(root, "train2017")
    assert split.category_ids == (10, 20, 30)
    assert split.category_names == scenes.NAMES
    assert len(split.images) == 3


def test_the_card_counts_images_and_follows_the_annotations(root: Path) -> None:
    splits = [coco.read_split(root, name) for name in ("train2017", "val2017")]
    first = coco.describe(root, splits)
    assert first.images == {"train2017": 3, "val2017": 2}
    splits[0].annotations.write_text(splits[0].annotations.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    assert coco.describe(root, splits).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "annotations/instances_train2017.json").unlink(), "there are: instances_val2017.json"),
        (lambda root: (root / "annotations/instances_train2017.json").write_text("{"), "expected COCO annotations"),
        (lambda root: (root / "annotations/instances_train2017.json").write_text("[]"), "expected COCO annotations"),
        (
            lambda root: (root / "annotations/instances_train2017.json").write_text(
                '{"images": [], "annotations": [], "categories": []}'
            ),
            "expected images with annotated objects, found none",
        ),
        (lambda root: (root / "train2017/000000000001.jpg").unlink(), "000000000001.jpg: expected an image that"),
    ],
)
def test_damage_is_one_line(root: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(root)
    with pytest.raises(UserError, match=message):
        coco.read_split(root, "train2017")


def test_an_absent_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder with COCO, found none"):
        coco.read_split(tmp_path / "absent", "val2017")
