from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from converters.errors import UserError
from evaluators.datasets import train_list
from evaluators.protocols import CATALOGUE
from evaluators.settings.finetune import FinetuneSettings
from tests import image_folders

LISTED = ("n01_0.png", "n02_3.png", "n01_2.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ImageNet's layout with two classes of four images, and a list of three."""
    seed = 0
    for split, count in (("train", 4), ("val", 2)):
        for wnid in ("n01", "n02"):
            for number in range(count):
                seed += 1
                image_folders.image(tmp_path / split / wnid / f"{wnid}_{number}.png", (9, 99, 9), seed)
    (tmp_path / "1percent.txt").write_text("\n".join(LISTED) + "\n")
    return tmp_path


def settings(*overrides: str) -> FinetuneSettings:
    found = CATALOGUE["semi-1pct@1"].overridden(overrides).settings
    assert isinstance(found, FinetuneSettings)
    return found


ANY = settings("train_list_sha256=null")


def test_the_listed_images_alone_are_trained_on(root: Path) -> None:
    data = train_list.read(ANY, root)
    assert data.classes == ("n01", "n02")
    assert [path.relative_to(root).as_posix() for path in data.train.paths] == [
        "train/n01/n01_0.png",
        "train/n01/n01_2.png",
        "train/n02/n02_3.png",
    ]
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    assert data.card.images == {"train": 3, "val": 4}


def test_the_fingerprint_knows_the_list(root: Path) -> None:
    before = train_list.card(ANY, root).fingerprint
    (root / "train" / "n01" / "n01_3.png").unlink()  # not listed
    assert train_list.card(ANY, root).fingerprint == before
    listed = root / "1percent.txt"
    elsewhere = root / "lists" / "mine.txt"
    elsewhere.parent.mkdir()
    listed.rename(elsewhere)
    named = settings(f"train_list={elsewhere}", "train_list_sha256=null")
    assert train_list.card(named, root).fingerprint == before
    elsewhere.write_text("\n".join(reversed(LISTED)))
    assert train_list.card(named, root).fingerprint != before


def test_another_list_than_the_published_one_is_refused_unless_it_is_named(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"expected the published list, with the sha256 71e82a48ba78.*sha256=[0-9a-f]{64}"
    ):
        train_list.read(settings(), root)
    digest = hashlib.sha256((root / "1percent.txt").read_bytes()).hexdigest()
    assert len(train_list.read(settings(f"train_list_sha256={digest}"), root).train) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01_0.png\nn03_1.png\n", r"1percent.txt:2: expected .* one of the classes below val/, found 'n03_1.png'"),
        ("n01_0.png\n\nn01_9.png\n", r"1percent.txt:3: expected the image train/n01/n01_9.png, found none"),
        ("n01_0.png\nn01_0.png\n", r"1percent.txt:2: expected every image once, found n01_0.png again"),
        ("n01_0.png\n", r"expected listed images of every class, found none of n02"),
        ("n01_0.png/../n01_0.png\n", r"expected the image"),
    ],
    ids=["class", "absent", "twice", "no-image", "folder"],
)
def test_wrong_lists(root: Path, text: str, message: str) -> None:
    (root / "1percent.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        train_list.read(ANY, root)


def test_without_a_list(root: Path) -> None:
    (root / "1percent.txt").unlink()
    with pytest.raises(UserError, match=r"expected the list of training images, found none; put it there"):
        train_list.read(settings(), root)
