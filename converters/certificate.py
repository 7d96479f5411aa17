"""`Certificate`: what was proved about a conversion, as a JSON file beside the weights.

`certificate.schema.json` is its JSON Schema; write it anew with `python -m converters.certificate`.
"""

from __future__ import annotations

import hashlib
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
VERSION: Literal[2] = 2
SUFFIX = ".certificate.json"
_NO_SEAL = "0" * 64

Target = Literal["backbone", "torchvision", "timm", "detectron2", "mmseg", "mmdet", "mmpretrain"]
Verdict = Literal["proved", "read back", "coverage only"]

_PACKAGES = {
    "moco-transfer": ("moco-transfer",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "detectron2": ("detectron2", "pb1-detectron2"),
    "mmsegmentation": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmdetection": ("onedl-mmdetection", "mmdet"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
    "timm": ("timm",),
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
    version: Literal[2] = VERSION
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
    seal: str = _NO_SEAL
    """sha256 (hex) of the certificate's own text in which this value is 64 zeros: it shows a change by accident. Who
    changes the text on purpose can change it too."""

    def write(self, path: Path) -> None:
        """As indented JSON, sealed."""
        text = self.model_copy(update={"seal": _NO_SEAL}).model_dump_json(indent=2) + "\n"
        path.write_text(text.replace(_seal_line(_NO_SEAL), _seal_line(_sha256(text))), encoding="utf-8")


def _seal_line(seal: str) -> str:
    return f'"seal": "{seal}"'


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> Certificate:
    """The certificate at `path`.

    Raises:
        UserError: if it is absent, no JSON, no certificate, of a version not understood, or changed since it was
            written.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
    except OSError as error:
        raise UserError(expected="a certificate", found=error.strerror or str(error), where=path) from None
    except (ValueError, RecursionError):
        raise UserError(expected="a certificate (JSON)", found="another file", where=path) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(expected=f"format {FORMAT!r}", found="other JSON", where=path)
    if content.get("version") != VERSION:
        found = repr(content.get("version"))
        raise UserError(expected=f"version {VERSION} of a certificate", found=found, where=path, cure="convert anew")
    paper = parse(Certificate, content, path)
    if _sha256(text.replace(_seal_line(paper.seal), _seal_line(_NO_SEAL))) != paper.seal:
        raise UserError(
            expected=f"a text with the seal {paper.seal[:12]}",
            found="a certificate that was changed after it was written",
            where=path,
            cure="convert anew",
        )
    return paper


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


def _write_schema() -> None:
    path = Path(__file__).with_name("certificate.schema.json")
    path.write_text(json.dumps(Certificate.model_json_schema(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_schema()
