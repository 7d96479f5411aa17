"""torchvision's data sets of image files with annotations beside them, as they lie on disk after its own download.

Read from torchvision 0.23 to 0.29, `torchvision.datasets`: DTD (its first of ten partitions), Oxford Flowers 102,
Food-101, Oxford-IIIT Pets, FGVC Aircraft (variants), Stanford Cars.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.errors import UserError
from evaluators.datasets.assemble import Listed, absent, assemble, below, lines_of
from evaluators.datasets.labelled import LabelledImages

PLACES: dict[str, tuple[tuple[str, ...], str]] = {
    "DTD": (("dtd/dtd",), "labels/train1.txt"),
    "Flowers-102": (("flowers-102",), "setid.mat"),
    "Food-101": (("food-101",), "meta/train.json"),
    "Oxford-IIIT Pets": (("oxford-iiit-pet",), "annotations/trainval.txt"),
    "FGVC Aircraft": (("fgvc-aircraft-2013b",), "data/images_variant_trainval.txt"),
    "Stanford Cars": (("stanford_cars",), "devkit/cars_meta.mat"),
}
"""For each: the folders below torchvision's root, and a file that marks the data set's own folder."""


def dtd(root: Path, base: Path) -> LabelledImages:
    """Describable Textures: training and validation images of the first partition, and its test images."""
    lists = {name: base / "labels" / f"{name}1.txt" for name in ("train", "val", "test")}
    names = {split: lines_of(path) for split, path in lists.items()}
    classes = sorted({name.partition("/")[0] for found in names.values() for name in found})

    def listed(*splits: str) -> Listed:
        found = [(name, lists[split]) for split in splits for name in names[split]]
        paths = [below(base / "images", name, where) for name, where in found]
        return Listed(lists[splits[0]], paths, [classes.index(name.partition("/")[0]) for name, _ in found])

    return assemble(
        root,
        "dtd",
        classes,
        listed("train", "val"),
        listed("test"),
        annotations=lists.values(),
        validation=range(len(names["train"]), len(names["train"]) + len(names["val"])),
    )


def flowers(root: Path, base: Path) -> LabelledImages:
    """Flowers: the 2,040 training and validation images, and the 6,149 test images; classes have numbers only."""
    sets, marks = (base / name for name in ("setid.mat", "imagelabels.mat"))
    ids, labels = matlab(sets, "trnid", "valid", "tstid"), matlab(marks, "labels")["labels"].ravel()

    def listed(*splits: str) -> Listed:
        numbers = [int(number) for split in splits for number in ids[split].ravel()]
        wrong = [number for number in numbers if not 1 <= number <= len(labels)]
        if wrong:
            raise UserError(expected=f"images 1 to {len(labels)}", found=str(wrong[0]), where=sets)
        paths = [base / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
        return Listed(sets, paths, [int(labels[number - 1]) - 1 for number in numbers])

    classes = [str(number) for number in range(1, int(labels.max()) + 1)]
    return assemble(
        root,
        "flowers-102",
        classes,
        listed("trnid", "valid"),
        listed("tstid"),
        annotations=(sets, marks),
        validation=range(ids["trnid"].size, ids["trnid"].size + ids["valid"].size),
    )


def food(root: Path, base: Path) -> LabelledImages:
    """Food-101: 750 training and 250 test images a class."""
    lists = {split: base / "meta" / f"{split}.json" for split in ("train", "test")}
    named = {split: _classes_of(path) for split, path in lists.items()}
    classes = sorted(set(named["train"]) | set(named["test"]))

    def listed(split: str) -> Listed:
        found = [(classes.index(name), image) for name, images in named[split].items() for image in images]
        paths = [below(base / "images", f"{image}.jpg", lists[split]) for _, image in found]
        return Listed(lists[split], paths, [label for label, _ in found])

    return assemble(root, "food-101", classes, listed("train"), listed("test"), annotations=lists.values())


def pets(root: Path, base: Path) -> LabelledImages:
    """Oxford-IIIT Pets: 3,680 and 3,669 images of 37 breeds."""
    lists = {split: base / "annotations" / f"{split}.txt" for split in ("trainval", "test")}
    names: dict[int, str] = {}

    def listed(split: str) -> Listed:
        paths, labels = [], []
        for line in lines_of(lists[split]):
            # The name, the breed from 1, cat or dog, the number within those.
            image, *numbers = line.split()
            if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
                raise UserError(expected="an image and three numbers a line", found=repr(line), where=lists[split])
            labels.append(int(numbers[0]) - 1)
            names[labels[-1]] = image.rpartition("_")[0]
            paths.append(below(base / "images", f"{image}.jpg", lists[split]))
        return Listed(lists[split], paths, labels)

    train, test = listed("trainval"), listed("test")
    classes = [names.get(index, str(index)) for index in range(max(names) + 1)]
    return assemble(root, "oxford-iiit-pet", classes, train, test, annotations=lists.values())


def aircraft(root: Path, base: Path) -> LabelledImages:
    """FGVC Aircraft: 6,667 and 3,333 images of 100 variants."""
    folder = base / "data"
    classes = lines_of(folder / "variants.txt")
    index_of = {name: index for index, name in enumerate(classes)}

    def listed(split: str) -> Listed:
        where = folder / f"images_variant_{split}.txt"
        paths, labels = [], []
        for line in lines_of(where):
            image, _, variant = line.partition(" ")
            if variant not in index_of:
                raise UserError(expected="an image and a variant of variants.txt", found=repr(line), where=where)
            paths.append(below(folder / "images", f"{image}.jpg", where))
            labels.append(index_of[variant])
        return Listed(where, paths, labels)

    train, test, val = listed("trainval"), listed("test"), set(listed("val").paths)
    annotations = (folder / "variants.txt", train.where, test.where, folder / "images_variant_val.txt")
    return assemble(
        root,
        "fgvc-aircraft",
        classes,
        train,
        test,
        annotations=annotations,
        validation=[index for index, path in enumerate(train.paths) if path in val],
    )


def cars(root: Path, base: Path) -> LabelledImages:
    """Stanford Cars: 8,144 and 8,041 images of 196 models; the labels of the test images are a file of their own."""
    names = base / "devkit" / "cars_meta.mat"
    classes = [str(name) for name in matlab(names, "class_names", squeeze=True)["class_names"].ravel()]

    def listed(where: Path, images: Path) -> Listed:
        rows = matlab(where, "annotations", squeeze=True)["annotations"].ravel()
        try:
            found = [(str(row["fname"]), int(row["class"]) - 1) for row in rows]
        except (ValueError, TypeError, KeyError, IndexError):
            raise UserError(expected="annotations with fname and class", found="others", where=where) from None
        return Listed(where, [below(images, name, where) for name, _ in found], [label for _, label in found])

    train = listed(base / "devkit" / "cars_train_annos.mat", base / "cars_train")
    test = listed(base / "cars_test_annos_withlabels.mat", base / "cars_test")
    return assemble(root, "stanford-cars", classes, train, test, annotations=(names, train.where, test.where))


READERS: dict[str, Callable[[Path, Path], LabelledImages]] = {
    "DTD": dtd,
    "Flowers-102": flowers,
    "Food-101": food,
    "Oxford-IIIT Pets": pets,
    "FGVC Aircraft": aircraft,
    "Stanford Cars": cars,
}
"""Each takes the root that the user gave and the data set's own folder."""


def _classes_of(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise absent(path, error) from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(
        isinstance(images, list) and all(isinstance(image, str) for image in images) for images in content.values()
    ):
        raise UserError(expected="the images of every class as JSON", found="other content", where=path)
    return content


def matlab(path: Path, *names: str, squeeze: bool = False) -> dict[str, Any]:
    """Variables of a MATLAB file (version 5: arrays, no code)."""
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path, variable_names=names, squeeze_me=squeeze, appendmat=False)
    except OSError as error:
        raise absent(path, error) from None
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise UserError(
            expected="a MATLAB file", found=f"a damaged file ({error})", where=path, cure="unpack the data set again"
        ) from None
    for name in names:
        if name not in content:
            raise UserError(expected=f"the variable {name} in it", found="none", where=path)
    return content
