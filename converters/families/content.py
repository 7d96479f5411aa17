"""What a file holds: every mapping in it that has tensors, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.families import configuration
from converters.families.configuration import Configuration
from converters.families.naming import FIRST

_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name of the module that they wrap."""


@dataclass(frozen=True)
class Group:
    """The tensors of one mapping."""

    container: str
    """The keys below which it lies, joined by dots; empty for the file's own content."""
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()
    """Names in the same mapping that hold no tensor."""
    wrapper: str = ""
    """What all names begin with and no family says of its own."""

    @cached_property
    def names(self) -> dict[str, Tensor]:
        """Name without wrapper -> tensor."""
        return {name.removeprefix(self.wrapper): value for name, value in self.tensors.items()}


@dataclass(frozen=True)
class Content:
    """A whole file."""

    path: Path
    sha256: str
    top: Mapping[str, Any]
    """The file's outermost mapping; empty where it is none."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """By container."""

    @cached_property
    def configuration(self) -> Configuration:
        """What mmengine and mmcv save as `meta.cfg` or `meta.config` (mmengine 0.10, runner/runner.py)."""
        meta = self.top.get("meta")
        texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
        text = next((text for text in texts if isinstance(text, str)), "")
        return configuration.parse(text)

    def first_convolutions(self) -> Iterator[tuple[str, str]]:
        """Container and prefix of everything that begins as a ResNet under torchvision's names."""
        for container, group in self.groups.items():
            for name in group.tensors:
                prefix = name.removesuffix(FIRST)
                if prefix + FIRST == name and f"{prefix}layer1.0.{FIRST}" in group.tensors:
                    yield container, prefix


def read(path: Path, sha256: str, content: object) -> Content:
    """Find the tensors in what was loaded from a file; none is copied, and nothing in it is called."""
    groups: dict[str, Group] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)] if isinstance(content, Mapping | list | tuple) else []
    seen: set[int] = set()
    while waiting:
        keys, node = waiting.pop()
        if id(node) in seen:  # a pickle can hold itself
            continue
        seen.add(id(node))
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        tensors: dict[str, Tensor] = {}
        others = []
        for key, value in items:
            if (tensor := _tensor(value)) is not None:
                tensors[str(key)] = tensor
            else:
                others.append(str(key))
                if isinstance(value, Mapping | list | tuple):
                    waiting.append(((*keys, str(key)), value))
        if tensors:
            container = ".".join(keys)
            groups[container] = Group(container, tensors, tuple(others), _wrapper(tensors))
    return Content(path, sha256, content if isinstance(content, Mapping) else {}, groups)


def _wrapper(names: Mapping[str, Tensor]) -> str:
    found = ""
    while inner := next((word for word in _WRAPPERS if all(name.startswith(found + word) for name in names)), ""):
        found += inner
    return found


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub" or not value.dtype.isnative:
            return None
        # Torch warns of an array that it must not write to.
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    return value if isinstance(value, Tensor) else None


def begins_a_network(name: str, tensor: Tensor) -> bool:
    """Whether this is a first convolution on three channels: an encoder that must not be overlooked."""
    return name.endswith((".weight", "_w")) and tensor.dim() == 4 and tuple(tensor.shape[1:]) == (3, 7, 7)
