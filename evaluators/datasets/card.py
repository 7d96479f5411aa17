"""`DatasetCard`: which data a number was made on. Loads no torch, so that a run can plan without it."""

from __future__ import annotations

import importlib
from pathlib import Path

from converters.settings import Settings
from evaluators.settings import TaskSettings


class DatasetCard(Settings):
    """Which data a number was made on."""

    name: str
    layout: str
    fingerprint: str
    """sha256 over sorted relative paths, sizes and the bytes of the annotations."""
    sample: bool
    """True for the generated sample data, which says nothing about real benchmarks."""
    images: dict[str, int]
    """Images a split."""


def card(settings: TaskSettings, root: Path) -> DatasetCard:
    """The card of the data set at `root`, read in the layout that a protocol's settings ask for.

    Each layout's module has a function `card(settings, root)`.

    Raises:
        UserError: if the folder does not hold such a data set.
    """
    found: DatasetCard = importlib.import_module(f"evaluators.datasets.{_layout(settings)}").card(settings, root)
    return found


def _layout(settings: TaskSettings) -> str:
    """The module of the layout that a protocol's settings ask for."""
    if settings.task in ("detection", "segmentation"):
        return settings.layout
    if settings.task == "finetune" and settings.train_list is not None:
        return "train_list"
    several = settings.task == "svm" or (settings.task == "manyshot" and settings.metric == "map11")
    return "voc_labels" if several else "classification"
