"""`header.json` of a feature cache: what decides its values, what computed them, and how its files looked then."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
import torchvision

from converters.errors import UserError
from converters.metadata import Preprocess
from converters.settings import Settings, parse
from evaluators.features.layers import Layer

_DECISIVE = ("torch", "torchvision", "pillow")
"""Packages whose version can change the last bits of a feature."""


class View(Settings):
    """What happens to an image's pixels (see `evaluators.settings.base.FeatureSettings`)."""

    geometry: str
    resize: int
    crop: int
    interpolation: str


class Identity(Settings):
    """Everything that decides the values of a cache. Its hash is the folder's name."""

    format: Literal["moco-transfer-features"] = "moco-transfer-features"
    version: Literal[1] = 1
    backbone: str
    """The backbone's fingerprint."""
    preprocess: Preprocess
    stride_in_1x1: bool
    source: str
    """The data set's fingerprint."""
    split: str
    view: View
    layer: Layer
    precision: str
    head: str | None
    """The fingerprint of the projection head, where the layer is behind it."""

    @property
    def key(self) -> str:
        """40 hex digits."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:40]


class Made(Settings):
    """What computed the values."""

    device: str
    """`cpu` or `cuda`."""
    folded: bool
    """Whether BN was folded into the convolutions (see `evaluators.features.network`)."""
    versions: dict[str, str]

    def note(self, here: Made, what: str) -> str | None:
        """What a reader of a number must know where a record's own device and versions are not these; else None."""
        if self.device == here.device and all(self.versions.get(name) == here.versions[name] for name in _DECISIVE):
            return None
        versions = ", ".join(f"{name} {self.versions.get(name, 'unknown')}" for name in _DECISIVE)
        return f"{what} come from the cache, computed on {self.device} with {versions}"


class Header(Settings):
    """`header.json`."""

    identity: Identity
    images: int
    """N."""
    dim: int
    """D."""
    dtype: Literal["<f4"] = "<f4"
    chunk: int
    """Images a chunk; the last may have fewer."""
    made: Made
    stamp: str = ""
    """See `stamp`; it says nothing of the values, so it is no part of the identity."""
    checksums: tuple[str, ...] = ()
    """sha256 (hex) of the bytes of each chunk."""


def made(device: str, *, folded: bool) -> Made:
    """What computes here."""
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    return Made(device=device, folded=folded, versions={**versions, "python": platform.python_version()})


def read(path: Path) -> Header:
    """The header at `path`.

    Raises:
        OSError, ValueError, RecursionError, UserError: for a damaged one.
    """
    return parse(Header, json.loads(path.read_bytes()), path)


FAULTS = (OSError, ValueError, RecursionError, UserError)
"""What `read` raises; a text of many brackets makes Python's reader of JSON recurse too deeply."""


def stamp(paths: Sequence[Path]) -> str:
    """sha256 (hex) of the files' sizes and times of change, in this order.

    A data set's fingerprint sees paths and sizes alone: a file of equal size with other bytes, as of a bitmap, would
    pass. Paths stay out of the stamp, so that the data may be named by another path. What is no file, as an image
    inside an archive, counts as 0: the fingerprint of such a data set covers every byte.
    """
    facts = np.zeros((len(paths), 2), dtype="<i8")
    for row, path in enumerate(paths):
        try:
            found = path.stat()
        except OSError:
            continue
        facts[row] = found.st_size, found.st_mtime_ns
    return hashlib.sha256(facts.tobytes()).hexdigest()
