"""`Certificate`: what was proved about a conversion, as a JSON file beside the weights."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Literal

from pydantic import Field

from converters.errors import UserError
from converters.metadata import Origin
from converters.parity import StageParity
from converters.receipt import Receipt
from converters.settings import Settings, parse

FORMAT = "moco-transfer-certificate"
SUFFIX = ".certificate.json"

Target = Literal["backbone", "detectron2", "mmseg"]
Verdict = Literal["proved", "read back", "coverage only"]

_PACKAGES = {
    "moco-transfer": ("moco-transfer",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "detectron2": ("detectron2", "pb1-detectron2"),
    "mmsegmentation": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmengine": ("onedl-mmengine", "mmengine"),
}
"""A package -> the distributions that may carry it."""


class WrittenFile(Settings):
    """A file as it was written."""

    file: str
    """Without folders."""
    sha256: str


class Coverage(Settings):
    """Which tensors went over, by name."""

    expected: int
    """Tensors of the backbone, batch counters included: 318 for ResNet-50."""
    mapped: int
    """Read back from the written file bit for bit."""
    missing: tuple[str, ...] = ()
    """torchvision's names of those that were not; empty, or there is no certificate."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Tensors of the source that were left out, by the name of the rule."""
    loaded: int | None = None
    """Found bit for bit in the live model of the framework, after its own loader; None without one."""


class Parity(Settings):
    """The same picture through torchvision and through the target's own loader and pre-processing."""

    framework: str
    picture_sha256: str
    """Of the pixels (8-bit RGB, row order) of scikit-image's photograph `astronaut`, rows 0:224, columns 112:336."""
    dtype: Literal["float32"] = "float32"
    norm: str
    """The class of the live model's norm layers; in eval mode, in which SyncBN needs no process group."""
    bound: float
    stages: tuple[StageParity, ...]
    receipt: Receipt


class Certificate(Settings):
    """The proof of one conversion."""

    format: Literal["moco-transfer-certificate"] = "moco-transfer-certificate"
    version: Literal[1] = 1
    verdict: Verdict
    """`proved`: coverage and parity. `read back`: a backbone file, whose tensors and header were read again and are the
    same; no framework computes with it. `coverage only`: the framework was not there; see `why_no_parity`."""
    target: Target
    arch: str
    fingerprint: str
    """Of the backbone, the same in every container."""
    source: Origin
    weights: WrittenFile
    fragment: WrittenFile | None
    """None for a backbone file, whose header says what the fragment would."""
    coverage: Coverage
    parity: Parity | None
    why_no_parity: str | None = None
    versions: dict[str, str]

    def write(self, path: Path) -> None:
        """As indented JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Certificate:
    """The certificate at `path`.

    Raises:
        UserError: if it is absent, no JSON or no certificate.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(expected="a certificate", found=error.strerror or str(error), where=path) from None
    except ValueError:
        raise UserError(expected="a certificate (JSON)", found="another file", where=path) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(expected=f"format {FORMAT!r}", found="other JSON", where=path)
    return parse(Certificate, content, path)


def versions() -> dict[str, str]:
    """The installed versions that matter for a conversion."""
    found = {"python": platform.python_version()}
    for package, distributions in _PACKAGES.items():
        for distribution in distributions:
            try:
                found[package] = f"{importlib.metadata.version(distribution)}"
            except importlib.metadata.PackageNotFoundError:
                continue
            break
    return found
