"""What the rules look at in the values of an OpenMMLab configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import UserError
from converters.lint.finding import Path as KeyPath
from converters.lint.values import count
from converters.to_openmmlab import Framework

BACKBONE: KeyPath = ("model", "backbone")
SHARED_HEAD: KeyPath = ("model", "roi_head", "shared_head")
_MISSING = object()
_IN_NAME = re.compile(r"(\d+)xb(\d+)")
"""OpenMMLab's names say for how many devices, and how many images on each, a configuration is: `4xb2`."""


def at(values: Any, path: KeyPath, default: Any = None) -> Any:
    """The value at a path, or `default`."""
    for step in path:
        if isinstance(values, dict):
            values = values.get(step, _MISSING)
        elif isinstance(values, (list, tuple)) and isinstance(step, int) and step < len(values):
            values = values[step]
        else:
            values = _MISSING
        if values is _MISSING:
            return default
    return values


def mapping(values: Any, path: KeyPath) -> dict[str, Any]:
    """The dict at a path; an empty one for anything else."""
    found = at(values, path)
    return found if isinstance(found, dict) else {}


def listed(values: Any, path: KeyPath) -> list[tuple[KeyPath, dict[str, Any]]]:
    """The dict at a path, or each dict of the list there, with its own path."""
    found = at(values, path)
    if isinstance(found, dict):
        return [(path, found)]
    if isinstance(found, (list, tuple)):
        return [((*path, place), inner) for place, inner in enumerate(found) if isinstance(inner, dict)]
    return []


def kind(of: Mapping[str, Any]) -> str:
    """The `type` without scope and modules: `mmseg.ResNet` is a ResNet."""
    return str(of.get("type", "")).rpartition(".")[2]


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Every dict within a value, itself too."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            if isinstance(key, str):  # another names no part of a model
                yield from walk(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from walk(inner, (*path, place))


def framework_of(values: dict[str, Any], path: Path) -> Framework:
    """Whose configuration it is, by the parts of its model.

    Raises:
        UserError: if it has no model with a backbone, or one of another framework.
    """
    model = mapping(values, ("model",))
    if not mapping(values, BACKBONE):
        raise UserError(
            expected="a configuration with model.backbone",
            found="none",
            where=path,
            cure="give the configuration that training is started with",
        )
    preprocessor = kind(mapping(values, ("model", "data_preprocessor")) or mapping(values, ("data_preprocessor",)))
    parts: dict[Framework, tuple[str, set[str]]] = {
        "mmseg": ("SegDataPreProcessor", {"decode_head", "auxiliary_head"}),
        "mmdet": ("DetDataPreprocessor", {"roi_head", "rpn_head", "bbox_head", "mask_head"}),
        "mmpretrain": ("ClsDataPreprocessor", {"head"}),
    }
    for framework, (own, heads) in parts.items():
        if preprocessor == own or heads & model.keys():
            return framework
    raise UserError(
        expected="a model of mmseg, mmdet or mmpretrain", found=f"the parts {', '.join(sorted(model))}", where=path
    )


@dataclass(frozen=True)
class OpenMMLabConfig:
    """A configuration, and what it is held against."""

    values: dict[str, Any]
    path: Path
    framework: Framework
    gpus: int | None

    @property
    def one_device(self) -> bool:
        """Known to train on one GPU or a CPU."""
        return self.gpus is not None and self.gpus <= 1

    @property
    def right_norm(self) -> str:
        """The batch norm to have."""
        return "BN" if self.one_device else "SyncBN"

    @property
    def images(self) -> int | None:
        """In a batch on one device."""
        return count(at(self.values, ("train_dataloader", "batch_size"), at(self.values, ("data", "samples_per_gpu"))))

    @property
    def batch(self) -> int | None:
        """Images an optimizer step over all devices; None where the number of devices is known from nowhere."""
        if self.images is None:
            return None
        steps = count(at(self.values, ("optim_wrapper", "accumulative_counts"), 1)) or 1
        if self.gpus is not None:
            return count(self.images * max(self.gpus, 1) * steps)
        if match := _IN_NAME.search(self.path.name):
            return count(self.images * int(match.group(1)) * steps)
        return count(at(self.values, ("auto_scale_lr", "base_batch_size")))

    def data_sets(self, which: str) -> list[dict[str, Any]]:
        """The data sets below the wrappers of a loader (`train`, `val`, `test`), or of 0.x's `data`."""
        top = at(self.values, (f"{which}_dataloader", "dataset"), at(self.values, ("data", which)))
        return list(_unwrapped(top))


def _unwrapped(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, (list, tuple)):
        for inner in data:
            yield from _unwrapped(inner)
    elif isinstance(data, dict):
        within = data.get("dataset", data.get("datasets"))
        if isinstance(within, (dict, list, tuple)):
            yield from _unwrapped(within)
        else:
            yield data
