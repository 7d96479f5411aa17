"""A data set for classification, in whichever of the known layouts it lies; nothing is ever downloaded.

- lists of files: `train.txt` and `val.txt` (or `test.txt`), whatever lies beside them; see `file_list`
- an image folder: `train/CLASS/…` and `val/CLASS/…` (or `test/`)
- torchvision's data sets as they lie after its own download: see `annotated` and `packed`. What numbers are reported on
  is their test split; everything else that has labels is trained on, as in ssl-transfer's final evaluations.
"""

from __future__ import annotations

from pathlib import Path

from converters.errors import UserError
from evaluators.datasets import annotated, file_list, image_folder, packed
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages
from evaluators.settings import TaskSettings

_READERS = {**annotated.READERS, **packed.READERS}
_PLACES = {**annotated.PLACES, **packed.PLACES}
_NO_SPLIT = {"caltech101": "Caltech-101", "SUN397": "SUN397", "eurosat": "EuroSAT"}
"""Folders of torchvision's data sets that come without a split into training and test images."""


def read(root: Path) -> LabelledImages:
    """List and check the data set at `root`, whose layout is told by what lies there. No image is opened.

    Raises:
        UserError: if there is no such data set, half of one, or several; see the layouts' own modules.
    """
    if root.is_dir():
        if file_list.recognised(root):
            return file_list.read(root)
        found = {name: base for name, places in _PLACES.items() if (base := _base(root, places)) is not None}
        if len(found) > 1:
            raise UserError(
                expected="one data set",
                found=", ".join(sorted(found)),
                where=root,
                cure=f"give the folder of one, as {next(iter(found.values()))}",
            )
        for name, base in found.items():
            return _READERS[name](root, base)
        for folder, title in _NO_SPLIT.items():
            if (root / folder).is_dir() and not (root / "train").is_dir():
                raise UserError(
                    expected="a split into training and test images",
                    found=f"{title}, which has no official one",
                    where=root / folder,
                    cure="write the split that you mean to train.txt and val.txt, a line an image: path label",
                )
    return image_folder.read(root)


def card(settings: TaskSettings, root: Path) -> DatasetCard:  # noqa: ARG001 - one signature for all layouts
    """The card of the data set at `root`; errors as for `read`."""
    return read(root).card


def _base(root: Path, places: tuple[tuple[str, ...], str]) -> Path | None:
    """The folder of a data set below `root`, or `root` itself, where its mark lies in it."""
    folders, mark = places
    for folder in folders:
        if (root / folder).is_dir():
            return root / folder
    return root if (root / mark).is_file() else None
