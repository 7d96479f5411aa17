from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.errors import UserError
from evaluators.datasets import voc_labels
from evaluators.datasets.voc import CLASS_NAMES
from evaluators.protocols import CATALOGUE
from evaluators.settings.svm import SvmSettings
from tests.evaluators.scenes import scenes, write_voc


def settings() -> SvmSettings:
    found = CATALOGUE["svm-voc07@1"].settings
    assert isinstance(found, SvmSettings)
    return found


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Every third object is difficult."""
    folder = write_voc(tmp_path, {"trainval": scenes(12, 48, 0), "test": scenes(6, 48, 1)})
    objects = 0
    for path in sorted((folder / "Annotations").iterdir()):
        parts = path.read_text().split("<difficult>0")
        text = parts[0]
        for part in parts[1:]:
            text += f"<difficult>{int(objects % 3 == 0)}{part}"
            objects += 1
        path.write_text(text)
    return folder


def by_hand(folder: Path, split: str) -> list[list[int]]:
    """From the text of the XML files, without a parser."""
    rows = []
    for name in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        objects = (folder / "Annotations" / f"{name}.xml").read_text().split("<object>")[1:]
        row = []
        for label in CLASS_NAMES:
            mine = [text for text in objects if f"<name>{label}<" in text]
            easy = [text for text in mine if "<difficult>0" in text]
            row.append(1 if easy else 0 if mine else -1)
        rows.append(row)
    return rows


def test_present_difficult_absent(voc: Path, tmp_path: Path) -> None:
    data = voc_labels.read(settings(), tmp_path)
    assert data.classes == CLASS_NAMES
    assert data.train.labels.tolist() == by_hand(voc, "trainval")
    assert data.val.labels.tolist() == by_hand(voc, "test")
    assert set(np.unique(data.train.labels)) == {-1, 0, 1}
    assert data.card.images == {"2007_trainval": 12, "2007_test": 6}
    assert data.card.fingerprint == data.train.source == voc_labels.card(settings(), tmp_path / "VOCdevkit").fingerprint


def write_lists(folder: Path, split: str) -> None:
    """The devkit's own lists of the classes."""
    main = folder / "ImageSets" / "Main"
    names = (main / f"{split}.txt").read_text().split()
    for column, label in enumerate(CLASS_NAMES):
        lines = [f"{name} {row[column]:2d}\n" for name, row in zip(names, by_hand(folder, split), strict=True)]
        (main / f"{label}_{split}.txt").write_text("".join(lines))


def test_the_devkits_lists_say_the_same_and_are_read_where_they_are(voc: Path, tmp_path: Path) -> None:
    plain = voc_labels.read(settings(), tmp_path)
    write_lists(voc, "trainval")
    listed = voc_labels.read(settings(), tmp_path)
    assert np.array_equal(listed.train.labels, plain.train.labels)
    assert listed.card.fingerprint != plain.card.fingerprint
    path = voc / "ImageSets" / "Main" / "cat_trainval.txt"
    first = path.read_text().split()[0]
    path.write_text(path.read_text().replace(f"{first} -1", f"{first}  1"))
    changed = voc_labels.read(settings(), tmp_path)
    assert changed.train.labels[0, CLASS_NAMES.index("cat")] == 1
    assert changed.card.fingerprint != listed.card.fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.unlink(),
            "expected a list of the split 2007_trainval for every class, or for none, found 19",
        ),
        (lambda path: path.write_text("000001 1\n"), "a line for every image of 2007_trainval, found none for 000002"),
        (lambda path: path.write_text("000001 2\n"), r"cat_trainval.txt:1: expected .* 1, 0 or -1, found '000001 2'"),
        (lambda path: path.write_text("nine 1\n"), r"expected an image of 2007_trainval"),
    ],
    ids=["missing", "short", "label", "image"],
)
def test_damaged_lists(voc: Path, tmp_path: Path, damage: object, message: str) -> None:
    assert callable(damage)
    write_lists(voc, "trainval")
    damage(voc / "ImageSets" / "Main" / "cat_trainval.txt")
    with pytest.raises(UserError, match=message):
        voc_labels.read(settings(), tmp_path)
