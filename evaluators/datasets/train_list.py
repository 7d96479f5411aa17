"""The layout of ImageNet where a list names the training images, as the published 1 % and 10 % of SimCLR.

A line is the name of a file, `n02494079_480.JPEG`, which lies in `train/n02494079/`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.image_folder import class_files
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.settings import TaskSettings
from evaluators.settings.finetune import FinetuneSettings


def read(settings: FinetuneSettings, root: Path) -> LabelledImages:
    """Read the list and the validation images, and check that every listed image is there. No image is opened.

    Raises:
        UserError: if the list is absent, is not the declared one, names an image twice or one that is not there, or
            has none of a class.
    """
    assert settings.train_list is not None
    path = _find(settings.train_list, root)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if settings.train_list_sha256 is not None and digest != settings.train_list_sha256:
        raise UserError(
            expected=f"the published list, with the sha256 {settings.train_list_sha256[:12]}…",
            found=f"another, with {digest[:12]}…",
            where=path,
            cure="download it again from google-research/simclr imagenet_subsets, or give --set "
            f"train_list_sha256={digest}, which marks the result",
        )
    if not (root / "val").is_dir():
        raise UserError(expected="the folder val/", found="none", where=root, cure="give the folder that holds it")
    val = class_files(root / "val")
    classes = tuple(sorted(val))
    train, labels = _listed(content, path, root, classes)
    images = [*train, *(file for files in val.values() for file in files)]
    identity = hashlib.sha256(f"{fingerprint(root, images)}\0{digest}".encode()).hexdigest()
    validation = tuple(file for name in classes for file in val[name])
    val_labels = np.repeat(np.arange(len(classes)), [len(val[name]) for name in classes])
    described = DatasetCard(
        name=f"{root.resolve().name} {path.name}",
        layout="train-list",
        fingerprint=identity,
        sample=is_sample(root),
        images={"train": len(train), "val": len(validation)},
    )
    return LabelledImages(
        root=root,
        classes=classes,
        train=Split("train", identity, tuple(train), labels),
        val=Split("val", identity, validation, val_labels),
        card=described,
    )


def card(settings: TaskSettings, root: Path) -> DatasetCard:
    """The card of the data set at `root`; errors as for `read`."""
    assert isinstance(settings, FinetuneSettings), settings.task
    return read(settings, root).card


def _find(name: str, root: Path) -> Path:
    path = root / name  # an absolute path stays what it is
    if not path.is_file():
        raise UserError(
            expected="the list of training images",
            found="none",
            where=path,
            cure="put it there (google-research/simclr imagenet_subsets), or name it with --set train_list=PATH",
        )
    return path


def _listed(
    content: bytes, path: Path, root: Path, classes: tuple[str, ...]
) -> tuple[list[Path], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The listed images, sorted by class and name, and their labels."""
    index_of = {name: index for index, name in enumerate(classes)}
    named: dict[str, int] = {}
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise UserError(expected="a list of file names", found="other bytes", where=path) from None
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            continue
        where = f"{path}:{number}"
        wnid = name.partition("_")[0]
        if wnid not in index_of:
            raise UserError(
                expected="the name of an image, beginning with one of the classes below val/",
                found=repr(name),
                where=where,
            )
        if name in named:
            raise UserError(expected="every image once", found=f"{name} again", where=where)
        # No folder: a list cannot reach outside the data set.
        if "/" in name or not (root / "train" / wnid / name).is_file():
            raise UserError(expected=f"the image train/{wnid}/{name}", found="none", where=where)
        named[name] = index_of[wnid]
    present = set(named.values())
    empty = [name for name, index in index_of.items() if index not in present]
    if empty:
        raise UserError(
            expected="listed images of every class",
            found=f"none of {empty[0]}" + (f" nor of {len(empty) - 1} others" if len(empty) > 1 else ""),
            where=path,
        )
    ordered = sorted(named, key=lambda name: (named[name], name))
    files = [root / "train" / name.partition("_")[0] / name for name in ordered]
    return files, np.array([named[name] for name in ordered], dtype=np.int64)
