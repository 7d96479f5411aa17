from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.dataset_fingerprint import SAMPLE_MARKER
from converters.errors import UserError
from evaluators.datasets import voc
from evaluators.datasets.card import card
from evaluators.protocols import CATALOGUE
from tests.evaluators import scenes

Voc = tuple[Path, Path]


@pytest.fixture
def made(tmp_path: Path) -> Voc:
    """The root and `VOC2007` with 3 trainval and 2 test images."""
    folder = scenes.write_voc(
        tmp_path, {"trainval": scenes.scenes(3, 40, seed=0), "test": scenes.scenes(2, 40, seed=1)}
    )
    return tmp_path, folder


def test_boxes_and_classes_are_those_of_the_files(made: Voc) -> None:
    split = voc.read_split(made[0], "2007_trainval")
    expected = [
        [(thing.kind, (thing.left + 1, thing.top + 1, thing.right + 1, thing.bottom + 1)) for thing in scene.things]
        for scene in scenes.scenes(3, 40, seed=0)
    ]
    assert [[(thing.class_index, thing.box) for thing in image.objects] for image in split.images] == expected
    assert split.year == 2007
    assert {(image.width, image.height) for image in split.images} == {(40, 40)}


def test_the_fingerprint_does_not_depend_on_the_root_but_on_every_annotation(made: Voc) -> None:
    root, folder = made
    settings = CATALOGUE["quickstart-detection@1"].settings
    first = card(settings, root)
    assert first == card(settings, root / "VOCdevkit")
    assert first.images == {"2007_trainval": 3, "2007_test": 2}
    annotation = folder / "Annotations" / "000001.xml"
    annotation.write_text(annotation.read_text().replace("<difficult>0<", "<difficult>1<", 1))
    assert card(settings, root).fingerprint != first.fingerprint


def test_sample_data_says_so(made: Voc) -> None:
    root, _ = made
    split = voc.read_split(root, "2007_test")
    assert not voc.describe(root, [split]).sample
    (root / SAMPLE_MARKER).write_text("{}")
    assert voc.describe(root, [split]).sample
    assert voc.describe(root / "VOCdevkit", [split]).sample


def test_a_difficult_object_does_not_make_a_class_present(made: Voc) -> None:
    annotation = made[1] / "Annotations" / "000004.xml"
    text = annotation.read_text()
    for kind, name in enumerate(scenes.NAMES):
        changed = re.sub("<name>.*?</name>", f"<name>{name}</name>", text)
        annotation.write_text(changed)
        image = voc.read_split(made[0], "2007_test").images[0]
        assert voc.classes_present([image]) == (kind,)
        annotation.write_text(changed.replace("<difficult>0", "<difficult>1"))
        image = voc.read_split(made[0], "2007_test").images[0]
        assert voc.classes_present([image]) == ()


def _edit(old: str, new: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        annotation = folder / "Annotations" / "000001.xml"
        text = re.sub(old, new, annotation.read_text(), count=1)
        assert text != annotation.read_text()
        annotation.write_text(text)

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "ImageSets/Main/trainval.txt").unlink(), "the list of the split 2007_trainval.*test"),
        (lambda folder: (folder / "ImageSets/Main/trainval.txt").write_text("\n"), "found an empty list"),
        (lambda folder: (folder / "JPEGImages/000001.jpg").unlink(), "000001.jpg: expected the image of 000001"),
        (lambda folder: (folder / "JPEGImages/000001.jpg").write_bytes(b"GIF?"), "expected a JPEG image"),
        (lambda folder: (folder / "Annotations/000001.xml").unlink(), "000001.xml: expected the annotation of 000001"),
        (lambda folder: (folder / "Annotations/000001.xml").write_text("<annotation>"), "expected an XML annotation"),
        (_edit("<name>.*?</name>", "<name>aeroplan</name>"), "found 'aeroplan'; did you mean 'aeroplane'"),
        (_edit("<width>40</width>", "<width>41</width>"), "expected an image of 41x40 pixels, found 40x40"),
        (_edit("<width>40</width>", "<width>wide</width>"), "a whole number in the field size/width, found 'wide'"),
        (_edit("<xmin>[0-9]+</xmin>", "<xmin>0</xmin>"), "expected a box inside 1..40 x 1..40"),
        (_edit("<ymax>[0-9]+</ymax>", "<ymax>x</ymax>"), "expected a number in the field bndbox/ymax, found 'x'"),
        (_edit("<size>.*</size>", ""), "expected the field size/width, found none"),
    ],
)
def test_damage_is_one_line_that_names_the_file(made: Voc, damage: Callable[[Path], object], message: str) -> None:
    damage(made[1])
    with pytest.raises(UserError, match=message) as caught:
        voc.read_split(made[0], "2007_trainval")
    assert str(made[1]) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<pose>.*?</pose>", "", "expected the field pose"),
        ("<xmin>([0-9]+)</xmin>", r"<xmin>\1.5</xmin>", "whole number in the field bndbox/xmin"),
    ],
)
def test_a_scored_split_needs_what_the_metric_reads(made: Voc, old: str, new: str, message: str) -> None:
    _edit(old, new)(made[1])
    assert len(voc.read_split(made[0], "2007_trainval").images) == 3
    with pytest.raises(UserError, match=message):
        voc.read_split(made[0], "2007_trainval", scored=True)


def test_wrong_roots_and_names_of_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder with PASCAL VOC, found none"):
        voc.read_split(tmp_path / "absent", "2007_test")
    with pytest.raises(UserError, match=r"no folder VOC<year>.*give the folder that holds VOCdevkit"):
        voc.read_split(tmp_path, "2007_test")
    with pytest.raises(UserError, match="expected a split such as 2007_trainval, found 'test'"):
        voc.read_split(tmp_path, "test")
