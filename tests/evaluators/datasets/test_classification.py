"""Every layout for classification against an independent reader: torchvision's own classes, or lists written here."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as tv
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from converters.dataset_fingerprint import SAMPLE_MARKER
from converters.errors import UserError
from evaluators.datasets import classification
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.protocols import CATALOGUE
from tests import image_folders

GENERATOR = np.random.default_rng(0)


def pixels(*shape: int) -> NDArray[np.uint8]:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(8, 8, 3)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def same(split: Split, reference: Any) -> None:
    """The same images with the same labels, in whichever order."""

    def key(picture: Image.Image, label: int) -> tuple[int, bytes]:
        return label, picture.convert("RGB").tobytes()

    ours = [key(split.load(index), split[index].label) for index in range(len(split))]
    assert sorted(ours) == sorted(key(*reference[index]) for index in range(len(reference)))


# torchvision's data sets, each a miniature of what its download unpacks -----------------------------------------------


def make_dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        names = [f"{kind}/{kind}_{split}.jpg" for kind in ("dotted", "banded")]
        text(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", *names)
        for name in names:
            image(root / "dtd" / "dtd" / "images" / name)


def make_flowers(root: Path) -> None:
    base = root / "flowers-102"
    for number in range(1, 10):
        image(base / "jpg" / f"image_{number:05d}.jpg")
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 1, 2, 3, 1, 2, 3]], dtype=np.uint8)})
    ids = {"trnid": [[3, 1]], "valid": [[2, 9]], "tstid": [[8, 4, 5, 6, 7]]}
    savemat(base / "setid.mat", {name: np.array(value, dtype=np.uint16) for name, value in ids.items()})


def make_food(root: Path) -> None:
    for split in ("train", "test"):
        named = {kind: [f"{kind}/{split}{index}" for index in range(2)] for kind in ("waffles", "baklava")}
        text(root / "food-101" / "meta" / f"{split}.json", json.dumps(named))
        for names in named.values():
            for name in names:
                image(root / "food-101" / "images" / f"{name}.jpg")


def make_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = [f"{breed}_{split}_1 {label} 1 {label}" for label, breed in ((2, "great_pyrenees"), (1, "Abyssinian"))]
        text(base / "annotations" / f"{split}.txt", *lines)
        for line in lines:
            image(base / "images" / f"{line.split()[0]}.jpg")
    (base / "annotations" / "trimaps").mkdir()


def make_aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    text(base / "variants.txt", "707-320", "Boeing 717")
    for split, number in (("trainval", 10), ("test", 20)):
        text(base / f"images_variant_{split}.txt", f"{number:07d} Boeing 717", f"{number + 1:07d} 707-320")
        for offset in range(2):
            image(base / "images" / f"{number + offset:07d}.jpg")
    text(base / "images_variant_val.txt", "0000011 707-320")


def make_cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    for split, where in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array(
            [(7, 2, "00001.jpg"), (8, 1, "00002.jpg")], dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
        )
        savemat(base / where, {"annotations": rows})
        for index in (1, 2):
            image(base / f"cars_{split}" / f"{index:05d}.jpg")
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})


def python2(content: dict[str, Any]) -> bytes:
    """Pickled as Python 2 did it, as the files of CIFAR are: its strings, and an array over one of them."""

    def text_of(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    def value_of(value: Any) -> bytes:
        if isinstance(value, str):
            return text_of(value)
        if isinstance(value, list):
            return b"](" + b"".join(value_of(each) for each in value) + b"e"
        if isinstance(value, int):
            return b"K" + bytes([value])
        raw = value.tobytes()
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"(" + b"".join(b"M" + struct.pack("<H", side) for side in value.shape) + b"t"
        return made + b"(K\x01" + shape + kind + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"

    return b"\x80\x02}(" + b"".join(text_of(key) + value_of(value) for key, value in content.items()) + b"u."


def make_cifar10(root: Path) -> None:
    base = root / "cifar-10-batches-py"
    base.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        content = {"batch_label": name, "labels": [0, 2, 1], "data": pixels(3, 3072), "filenames": ["a", "b", "c"]}
        (base / name).write_bytes(python2(content))
    (base / "batches.meta").write_bytes(python2({"label_names": ["airplane", "automobile", "bird"]}))


def make_cifar100(root: Path) -> None:
    base = root / "cifar-100-python"
    base.mkdir()
    for name in ("train", "test"):
        content = {"fine_labels": [1, 0], "coarse_labels": [0, 0], "data": pixels(2, 3072)}
        (base / name).write_bytes(python2(content))
    (base / "meta").write_bytes(python2({"fine_label_names": ["apple", "bee"], "coarse_label_names": ["thing"]}))


def make_stl10(root: Path) -> None:
    base = root / "stl10_binary"
    base.mkdir()
    for split in ("train", "test"):
        (base / f"{split}_X.bin").write_bytes(pixels(11, 3 * 96 * 96).tobytes())
        (base / f"{split}_y.bin").write_bytes(bytes([*range(1, 11), 5]))
    (base / "unlabeled_X.bin").write_bytes(b"")
    text(base / "class_names.txt", *(f"thing {number}" for number in range(10)))


def make_svhn(root: Path) -> None:
    for split in ("train", "test"):
        labels = np.array([[10], *([digit] for digit in range(1, 10))], dtype=np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": pixels(32, 32, 3, 10), "y": labels})


def parts(*made: Any) -> Any:
    return [sample for part in made for sample in part]


REFERENCES: dict[str, tuple[Callable[[Path], None], type[Any], Callable[[str], tuple[Any, Any]]]] = {
    "dtd": (make_dtd, tv.DTD, lambda r: (parts(tv.DTD(r, "train"), tv.DTD(r, "val")), tv.DTD(r, "test"))),
    "flowers": (
        make_flowers,
        tv.Flowers102,
        lambda r: (parts(tv.Flowers102(r, "train"), tv.Flowers102(r, "val")), tv.Flowers102(r, "test")),
    ),
    "food": (make_food, tv.Food101, lambda r: (tv.Food101(r, "train"), tv.Food101(r, "test"))),
    "pets": (make_pets, tv.OxfordIIITPet, lambda r: (tv.OxfordIIITPet(r, "trainval"), tv.OxfordIIITPet(r, "test"))),
    "aircraft": (
        make_aircraft,
        tv.FGVCAircraft,
        lambda r: (tv.FGVCAircraft(r, "trainval"), tv.FGVCAircraft(r, "test")),
    ),
    "cars": (make_cars, tv.StanfordCars, lambda r: (tv.StanfordCars(r, "train"), tv.StanfordCars(r, "test"))),
    "cifar10": (make_cifar10, tv.CIFAR10, lambda r: (tv.CIFAR10(r, True), tv.CIFAR10(r, False))),
    "cifar100": (make_cifar100, tv.CIFAR100, lambda r: (tv.CIFAR100(r, True), tv.CIFAR100(r, False))),
    "stl10": (make_stl10, tv.STL10, lambda r: (tv.STL10(r, "train"), tv.STL10(r, "test"))),
    "svhn": (make_svhn, tv.SVHN, lambda r: (tv.SVHN(r, "train"), tv.SVHN(r, "test"))),
}


def let_miniatures_pass(monkeypatch: pytest.MonkeyPatch, kind: type[Any], root: Path) -> None:
    """torchvision compares md5 sums with those of the real files: it shall know the miniature's instead."""

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    if kind in (tv.CIFAR10, tv.CIFAR100, tv.STL10):
        base = root / kind.base_folder
        for name in ("train_list", "test_list"):
            monkeypatch.setattr(kind, name, [[file, md5(base / file)] for file, _ in getattr(kind, name)])
        if hasattr(kind, "meta"):
            monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(base / kind.meta["filename"])})
    elif kind is tv.SVHN:
        lists = {
            split: [url, file, md5(root / file)]
            for split, (url, file, _) in kind.split_list.items()
            if split != "extra"
        }
        monkeypatch.setattr(kind, "split_list", lists)
    elif kind is tv.Flowers102:
        files = {
            name: (file, md5(root / "flowers-102" / file))
            for name, (file, _) in kind._file_dict.items()
            if name != "image"
        }
        monkeypatch.setattr(kind, "_file_dict", files)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_torchvisions_data_sets_are_read_as_torchvision_reads_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, kind, reference = REFERENCES[name]
    make(tmp_path)
    let_miniatures_pass(monkeypatch, kind, tmp_path)
    data = classification.read(tmp_path)
    train, val = reference(str(tmp_path))
    same(data.train, train)
    same(data.val, val)
    classes = getattr(val, "classes", None)
    if classes is not None and name not in (
        "flowers",
        "pets",
    ):  # flowers have no names; pets are shown in capitals there
        assert list(data.classes) == list(classes)
    assert data.card.images == {"train": len(data.train), "val": len(data.val)}
    assert all(path.is_relative_to(data.root) for path in (*data.train.paths, *data.val.paths))
    copy = pickle.loads(pickle.dumps(data.val))  # workers may be given it so
    assert copy.load(0).tobytes() == data.val.load(0).tobytes()


@pytest.mark.parametrize("name", ["aircraft", "dtd", "flowers"])
def test_the_validation_list_is_torchvisions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kind, _ = REFERENCES[name]
    make(tmp_path)
    let_miniatures_pass(monkeypatch, kind, tmp_path)
    data = classification.read(tmp_path)
    assert data.validation is not None
    found = [str(data.train.paths[index]) for index in data.validation]
    assert found == [str(path) for path in kind(str(tmp_path), "val")._image_files]


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_half_a_data_set_is_told(name: str, tmp_path: Path) -> None:
    REFERENCES[name][0](tmp_path)
    whole = classification.read(tmp_path).card.fingerprint
    data_files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    ignored = {"unlabeled_X.bin", "class_names.txt"}
    for path in [path for path in data_files if path.name not in ignored]:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError) as caught:
            classification.read(tmp_path)
        assert path.name in str(caught.value) or path.name == "train_32x32.mat", caught.value
        path.write_bytes(content)
    assert classification.read(tmp_path).card.fingerprint == whole


def test_cifars_pickles_cannot_run_code(tmp_path: Path) -> None:
    make_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"\x80\x02cposix\nsystem\nU\x0btouch owned\x85R.")
    with pytest.raises(UserError, match=r"data_batch_3: expected a pickle of arrays.*posix\.system"):
        classification.read(tmp_path)


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    make_svhn(tmp_path)
    with pytest.raises(UserError, match="expected one data set, found DTD, SVHN"):
        classification.read(tmp_path)
    assert classification.read(tmp_path / "dtd" / "dtd").card.layout == "dtd"


@pytest.mark.parametrize("folder", ["caltech101", "SUN397", "eurosat"])
def test_a_data_set_without_a_split_wants_lists(tmp_path: Path, folder: str) -> None:
    image(tmp_path / folder / "2750" / "River" / "1.jpg")
    with pytest.raises(UserError, match=r"no official one; write the split that you mean to train\.txt and val\.txt"):
        classification.read(tmp_path)


# Image folders and lists ----------------------------------------------------------------------------------------------


def test_an_image_folder_with_test_in_place_of_val(tmp_path: Path) -> None:
    root = image_folders.make(tmp_path / "colours", train=2, val=1)
    as_val = classification.read(root)
    (root / "val").rename(root / "test")
    data = classification.read(root)
    assert [path.parent.parent.name for path in data.val.paths] == ["test"] * 3
    assert (data.classes, data.card.images, data.card.layout) == (
        as_val.classes,
        {"train": 6, "val": 3},
        "image-folder",
    )


def listed(root: Path, style: str) -> LabelledImages:
    """The colours as lists in one of the styles."""
    image_folders.make(root, train=2, val=1)
    colours = sorted(image_folders.COLOURS)
    for split in ("train", "val"):
        base = root if style == "from the root" else root / split
        files = sorted((root / split).rglob("*.png"), reverse=True)
        lines = [file.relative_to(base).as_posix() for file in files]
        if style != "without labels":
            lines = [f"{line} {colours.index(file.parent.name)}" for line, file in zip(lines, files, strict=True)]
        text(root / f"{split}.txt", *lines)
    return classification.read(root)


@pytest.mark.parametrize("style", ["from the root", "from the split", "without labels"])
def test_lists_in_every_style(tmp_path: Path, style: str) -> None:
    data = listed(tmp_path, style)
    assert data.card.layout == "file-list"
    assert data.classes == (("blue", "green", "red") if style == "without labels" else ("0", "1", "2"))
    for split, samples in (("train", data.train), ("val", data.val)):
        files = sorted((tmp_path / split).rglob("*.png"), reverse=True)  # in the order of the list
        assert list(samples.paths) == files
        assert [sorted(image_folders.COLOURS)[label] for _, label in samples] == [file.parent.name for file in files]
    before = data.card.fingerprint
    text(tmp_path / "classes.txt", "sky", "grass", "rose")
    named = classification.read(tmp_path) if style != "without labels" else data
    assert style == "without labels" or (named.classes == ("sky", "grass", "rose") and named.card.fingerprint != before)
    assert classification.card(CATALOGUE["knn-dino@1"].settings, tmp_path) == classification.read(tmp_path).card


def test_blanks_in_paths_and_sample_data(tmp_path: Path) -> None:
    for name in ("a b/1.png", "a b/2.png", "c/my cat 3.png"):
        image(tmp_path / name)
    text(tmp_path / "train.txt", "\ufeffa b/1.png 0", "c/my cat 3.png\t1")  # with a byte order mark
    text(tmp_path / "test.txt", "a b/2.png 0")
    (tmp_path / SAMPLE_MARKER).write_text("{}")
    data = classification.read(tmp_path)
    assert (data.train.labels.tolist(), data.val.labels.tolist(), data.card.sample) == ([0, 1], [0], True)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        pytest.param("", "a/1.png 0", r"train\.txt: expected lines of text, found an empty file", id="empty"),
        pytest.param(
            "a/1.png 0\nb/2.png 1", "a/9.png 0", r"val\.txt, line 1: .* found 'a/9\.png' \(no such file\)", id="absent"
        ),
        pytest.param("a/1.png 0\nb/2.png -1", "a/1.png 0", "labels 0 to C - 1, .* found the label -1", id="negative"),
        pytest.param("a/1.png 0\nb/2.png 1", "a/1.png 2", "labels 0 to C - 1, .* found the label 2", id="beyond"),
        pytest.param(
            "a/1.png 0\nb/2.png 0\nc/3.png 2",
            "a/1.png 0",
            "image of every class to train on, found none of 1",
            id="gap",
        ),
        pytest.param("a/1.png 0\nb/2.png 0", "a/1.png 0", "at least two classes, found 1", id="one class"),
        pytest.param(
            "a/1.png 0\n../b.png 1", "a/1.png 0", r"below the data set's root, found '\.\./b\.png'", id="outside"
        ),
        pytest.param("a/1.png 0\n/b.png 1", "a/1.png 0", r"below the data set's root, found '/b\.png'", id="absolute"),
        pytest.param("a/1.png 0\na/1.png 1", "a/1.png 0", r"every image once, found .*a/1\.png again", id="twice"),
        pytest.param("a/1.png 0\nb/2.png", "a/1.png 0", "a label in every line of both lists", id="mixed"),
        pytest.param("1.png\n2.png", "1.png", r"a path and a label, or class/name\.jpg", id="no class"),
        pytest.param(
            "a/1.png 0\nb/2.png 1",
            "b/2.png 1\n./a/1.png 0",
            r"val\.txt: expected images that are not in train\.txt too, found 2 that are, as a/1\.png",
            id="in both",
        ),
        pytest.param(
            "a/1.png\nb/2.png", "c/3.png", "every class to train on, found none of c", id="class of val alone"
        ),
    ],
)
def test_wrong_lists(tmp_path: Path, train: str, val: str, message: str) -> None:
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        image(tmp_path / name)
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "val.txt").write_text(val)
    with pytest.raises(UserError, match=message):
        classification.read(tmp_path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param("c/3.png --5", "none behind c/3.png --5", id="two signs"),
        pytest.param("c/3.png " + "9" * 23, "none behind c/3.png 9", id="23 digits"),
        pytest.param("c/3.png " + "9" * 5000, "none behind c/3.png 9", id="5000 digits"),
        pytest.param("c/3.png,0", "none behind c/3.png,0", id="comma"),
        pytest.param("c/" + "x" * 300 + " 0", "File name too long", id="long name"),
        pytest.param("c 0", "'c' (no file but a folder)", id="folder"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(tmp_path: Path, line: str, found: str) -> None:
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        image(tmp_path / name)
    text(tmp_path / "train.txt", "a/1.png 0", "", line)
    text(tmp_path / "val.txt", "b/2.png 1")
    text(tmp_path / "classes.txt", "one", "two")
    with pytest.raises(UserError) as caught:
        classification.read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'train.txt'}, line 3: expected ")
    assert found in message
    assert "\n" not in message
    assert len(message) < 400 + len(str(tmp_path)) * 2


def test_lists_win_over_a_data_set_of_torchvision_beside_them(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    base = "dtd/dtd/images"
    text(tmp_path / "train.txt", f"{base}/banded/banded_train.jpg 0", f"{base}/dotted/dotted_train.jpg 1")
    text(tmp_path / "val.txt", f"{base}/banded/banded_val.jpg 0")
    data = classification.read(tmp_path)
    assert (data.card.layout, data.card.images) == ("file-list", {"train": 2, "val": 1})


def test_more_labels_than_named_classes(tmp_path: Path) -> None:
    listed(tmp_path, "from the root")
    text(tmp_path / "classes.txt", "sky", "grass")
    with pytest.raises(UserError, match=r"train\.txt: expected labels 0 to 1, found 2"):
        classification.read(tmp_path)
    text(tmp_path / "classes.txt", "sky", "grass", "sky")
    with pytest.raises(UserError, match="every class once, found 'sky' again"):
        classification.read(tmp_path)
