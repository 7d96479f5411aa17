from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from converters.dataset_fingerprint import SAMPLE_MARKER
from converters.errors import UserError
from evaluators.datasets import image_folder
from evaluators.datasets.labelled import load_image
from evaluators.protocols import CATALOGUE
from tests import image_folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folders.make(tmp_path / "colours", train=2, val=1)


def test_samples_are_those_of_torchvision_in_its_order(root: Path) -> None:
    image_folders.image(root / "train" / "red" / "deeper" / "x.JPEG", (200, 0, 0), seed=1)
    (root / "train" / "red" / "notes.txt").write_text("no image")
    data = image_folder.read(root)
    for split, samples in (("train", data.train), ("val", data.val)):
        expected = ImageFolder(str(root / split))
        assert list(data.classes) == expected.classes
        assert sorted((str(path), label) for path, label in samples) == sorted(expected.samples)
        assert list(samples) == sorted(samples, key=lambda sample: (sample.label, sample.path))


def test_card_says_which_data(root: Path) -> None:
    card = image_folder.card(CATALOGUE["knn-dino@1"].settings, root)
    assert (card.name, card.layout, card.sample) == ("colours", "image-folder", False)
    assert card.images == {"train": 6, "val": 3}
    (root / SAMPLE_MARKER).write_text("{}")
    assert image_folder.read(root).card.sample
    assert image_folder.read(root).card.fingerprint == card.fingerprint
    image_folders.image(root / "val" / "red" / "99.png", (200, 0, 0), seed=5)
    assert image_folder.read(root).card.fingerprint != card.fingerprint


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: expected an image folder with train/ and val/, found none"):
        image_folder.read(tmp_path / "absent")


def test_a_file_is_no_root(root: Path) -> None:
    with pytest.raises(UserError, match="found a file"):
        image_folder.read(root / "train" / "red" / "00.png")


def test_missing_split(root: Path) -> None:
    (root / "val").rename(root / "validation")
    with pytest.raises(UserError, match=r"colours: .*found no val/ in it"):
        image_folder.read(root)


def test_images_that_are_not_sorted_into_classes(root: Path) -> None:
    for path in sorted((root / "val").rglob("*.png")):
        path.rename(root / "val" / f"{path.parent.name}.png")
    for folder in image_folders.COLOURS:
        (root / "val" / folder).rmdir()
    with pytest.raises(UserError, match=r"val: expected one folder a class, found 3 images directly in it; sort"):
        image_folder.read(root)


def test_empty_class(root: Path) -> None:
    (root / "val" / "green" / "00.png").unlink()
    with pytest.raises(UserError, match=r"val/green: expected images in every class folder, found no image"):
        image_folder.read(root)


@pytest.mark.parametrize(("split", "other"), [("train", "val"), ("val", "train")])
def test_classes_that_differ(root: Path, split: str, other: str) -> None:
    image_folders.image(root / split / "yellow" / "0.png", (200, 200, 0), seed=1)
    with pytest.raises(UserError, match=rf"same classes in train/ and val/, found 1 only in {split}/: yellow"):
        image_folder.read(root)


def test_one_class_is_no_classification(tmp_path: Path) -> None:
    for split in image_folder.SPLITS:
        image_folders.image(tmp_path / split / "red" / "0.png", (200, 0, 0), seed=1)
    with pytest.raises(UserError, match="at least two classes, found one: red"):
        image_folder.read(tmp_path)


def test_a_link_that_leads_nowhere(root: Path) -> None:
    (root / "train" / "red" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png: expected an image, found No such file"):
        image_folder.read(root)


@pytest.mark.parametrize("keep", [0, 1, 60, -200])
def test_damaged_image_names_its_path(root: Path, keep: int) -> None:
    path = root / "train" / "red" / "00.png"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(UserError, match=r"red/00\.png: expected an image that can be decoded"):
        load_image(path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (8, 8)).save(path)
    assert load_image(path).mode == "RGB"
