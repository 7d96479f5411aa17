"""`moco-transfer data verify`: counts against published numbers, damage found, exit codes."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.datasets import verify
from evaluators.datasets.published import SHOULD, Should
from evaluators.datasets.verify import Contents, Part
from tests import image_folders
from transfer.__main__ import main


def part(name: str, counts: list[int]) -> Part:
    groups = np.repeat(np.arange(len(counts)), counts)
    return Part(
        name,
        tuple(Path(f"{name}/{index}.png") for index in range(len(groups))),
        groups,
        lambda _: Image.new("RGB", (1, 1)),
    )


def cifar(train: list[int], val: list[int]) -> Contents:
    return Contents("cifar-10", (part("train", train), part("val", val)), tuple(map(str, range(len(train)))))


def test_the_published_numbers_agree_with_themselves() -> None:
    for name, should in SHOULD.items():
        for split, (least, most) in should.per_class.items():
            assert least * should.classes <= should.images[split] <= most * should.classes, name


def test_counts() -> None:
    right = cifar([5000] * 10, [1000] * 10)
    assert verify.count(right, SHOULD["cifar10"]) == []
    moved = cifar([5000] * 10, [999, 1001, *[1000] * 8])
    assert [str(found) for found in verify.count(moved, SHOULD["cifar10"])] == [
        "val: expected 1,000 images of every class, found 999 in 0, and so in 1 other classes"
    ]
    fewer = cifar([5000] * 9, [1000] * 9)
    assert [str(found) for found in verify.count(fewer, SHOULD["cifar10"])] == [
        "classes: expected 10, found 9",
        "train: expected 50,000 images, found 45,000",
        "val: expected 10,000 images, found 9,000",
    ]
    named = Contents("image-folder", (part("train", [2, 2]),), ("n00000001", "cat"))
    should = Should("x", "classification", {"train": 4}, 2, class_names=r"n\d{8}")
    assert [found.found for found in verify.count(named, should)] == ["1 others, as 'cat'"]


def test_an_image_in_two_splits_deviates() -> None:
    train, val = part("train", [5, 5]), part("val", [2, 2])
    contents = Contents("voc", (train, replace(val, paths=(*train.paths[2:4], *val.paths[2:]))), ("a", "b"))
    should = Should("x", "voc", {"train": 10, "val": 4}, 2)
    assert [str(found) for found in verify.count(contents, should)] == [
        "train and val: expected no image in both, found 2, as train/2.png"
    ]


def test_a_sample_is_spread_over_splits_and_classes() -> None:
    contents = cifar([90, 5, 5], [4, 4, 4])
    chosen = verify.sample(contents, 17, seed=3)
    assert Counter(each.name for each, _ in chosen) == {"train": 9, "val": 8}
    assert Counter(int(each.groups[index]) for each, index in chosen if each.name == "train") == {0: 3, 1: 3, 2: 3}
    assert len({(each.name, index) for each, index in chosen}) == 17
    indices = [index for _, index in chosen]
    assert indices == [index for _, index in verify.sample(contents, 17, seed=3)]
    assert indices != [index for _, index in verify.sample(contents, 17, seed=4)]
    everything = verify.sample(contents, 1000, seed=0)
    assert sorted(index for each, index in everything if each.name == "val") == list(range(12))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folders.make(tmp_path / "colours", train=3, val=2)


def test_a_folder_that_is_whole(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "folder", str(root), "--full"]) == 0
    out = capsys.readouterr().out
    assert "layout image-folder, 3 classes" in out
    assert "15 images decoded, 0 damaged" in out
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{file.relative_to(root)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0" for file in files]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() in out


def test_damage_is_found_wherever_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = root / "val" / "red" / "01.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert main(["data", "verify", "folder", str(root)]) == 1
    out = capsys.readouterr().out
    assert f"deviates: {damaged}: expected an image that can be decoded" in out
    assert out.endswith("1 deviations\n")


def test_another_data_set_deviates(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "imagenet", str(root), "--sample", "1"]) == 1
    out = capsys.readouterr().out
    assert "deviates: classes: expected 1,000, found 3\n" in out
    assert "deviates: train: expected 1,281,167 images, found 9\n" in out
    assert "deviates: val: expected 50,000 images, found 6\n" in out
    assert main(["data", "verify", "voc07", str(root)]) == 1
    assert "deviates: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imagnet", "."], "did you mean 'imagenet'?"),
        (["imagenet", "no-such-folder"], "no-such-folder: expected the data set's root folder, found none"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", *words]) == 2
    assert message in capsys.readouterr().err
