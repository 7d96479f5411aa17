"""What a backbone file says of itself. Reads a header without loading torch or any tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from converters.census import header as census
from converters.census.limits import Refused
from converters.errors import UserError
from converters.settings import Settings, parse

FORMAT = "moco-transfer-backbone"
VERSION = 1

HEAD_FORMAT = "moco-transfer-head"
HEAD_VERSION = 1
HEAD_SUFFIX = ".head.safetensors"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(Settings):
    """How an image must enter the network."""

    channel_order: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per channel, in `channel_order`, on the scale of `value_range`."""
    std: tuple[float, float, float] = IMAGENET_STD
    value_range: tuple[float, float] = (0.0, 1.0)
    """The values of an image before mean and std: (0, 1), or (0, 255)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value_range must rise, not go from {low:g} to {high:g}")
        if min(self.std) <= 0:
            raise ValueError(f"every std must be above 0, not {self.std}")
        return self


class Origin(Settings):
    """Where the weights came from."""

    file: str
    """File name without folders, or `random:ARCH:SEED`."""
    sha256: str
    """Of the source file's bytes; empty for a random initialisation."""
    family: str
    """The reading rule that was used, as `moco` or `torchvision`."""
    container: str = ""
    """The keys below which the tensors lay, joined by dots, as `state_dict`; empty for the file's own content."""
    prefix: str = ""
    """What was stripped from the names of the source."""
    encoder: Literal["", "q", "k"] = ""
    """Which of two encoders was read, with its own batch-norm statistics: q, the trained one (query, online, student),
    or k, the averaged one (key, momentum, target, teacher); empty where there is one."""
    method: str = ""
    """The training method as far as the source tells, as `MoCo v2`; empty where it does not."""
    epochs: int | None = None
    pretrain_seed: int | None = None
    recipe: str = ""
    """The id of this project's recipe, where the checkpoint is one of ours."""
    pretrain_data: str = ""
    """The fingerprint of the data set that it was pretrained on, where the checkpoint says so."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """How many tensors of the source were left out, by the name of the rule that dropped them."""
    filled: dict[str, int] = Field(default_factory=dict)
    """How many tensors the source did not hold, by the name of the rule that filled them, as `batch counter 0`."""


class BackboneMetadata(Settings):
    """The header of a backbone file."""

    arch: str
    fingerprint: str
    """sha256 hex over parameters and running statistics (see `converters.backbone.fingerprint`)."""
    stride_in_1x1: bool = False
    """True where a bottleneck's stride sits in its first 1x1 convolution (Caffe2/MSRA weights), not in the 3x3."""
    preprocess: Preprocess = Preprocess()
    origin: Origin

    def to_header(self) -> dict[str, str]:
        """As safetensors metadata, which maps strings to strings."""
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "arch": self.arch,
            "fingerprint": self.fingerprint,
            "stride_in_1x1": json.dumps(self.stride_in_1x1),
            "preprocess": self.preprocess.model_dump_json(),
            "origin": self.origin.model_dump_json(),
        }


def read_metadata(path: Path) -> BackboneMetadata:
    """The header of the backbone file at `path`.

    Raises:
        UserError: if the file is absent, damaged, no backbone file, or of a version not understood.
    """
    if not path.is_file():
        raise UserError(
            expected="a backbone file", found="none", where=path, cure="make one with: moco-transfer convert"
        )
    header = safetensors_header(path)
    if header is None:
        raise UserError(
            expected="a backbone file (safetensors)",
            found="another or damaged file",
            where=path,
            cure="see what it is with: moco-transfer inspect",
        )
    return parse_header(header, path)


def head_beside(backbone: Path) -> Path:
    """Where the projection head of a backbone file lies: `moco.head.safetensors` beside `moco.safetensors`."""
    return backbone.with_name(backbone.stem + HEAD_SUFFIX)


def read_head_fingerprint(backbone: Path, fingerprint: str) -> str | None:
    """The fingerprint of the projection head beside a backbone file; None where there is none.

    Args:
        backbone: the file.
        fingerprint: of the backbone.

    Raises:
        UserError: if the head is damaged, of a version not understood, or that of another backbone.
    """
    path = head_beside(backbone)
    if not path.exists():
        return None
    header = safetensors_header(path) or {}
    cure = "convert the checkpoint again, or remove this file"
    if (header.get("format"), header.get("version")) != (HEAD_FORMAT, str(HEAD_VERSION)):
        found = f"{header.get('format', 'another or damaged file')} {header.get('version', '')}"
        raise UserError(
            expected=f"a projection head ({HEAD_FORMAT} {HEAD_VERSION})", found=found, where=path, cure=cure
        )
    if header.get("backbone") != fingerprint:
        raise UserError(
            expected=f"the head of the backbone {fingerprint[:12]}",
            found=f"that of {str(header.get('backbone'))[:12]}",
            where=path,
            cure=cure,
        )
    return header.get("fingerprint", "")


def safetensors_header(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file, empty where it has none; None for any other file, and for a damaged one.

    Raises:
        UserError: if the file cannot be opened.
    """
    try:
        census.check(path)
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, Refused):
        return None
    except OSError as error:
        raise UserError(expected="a readable file", found=error.strerror or str(error), where=path) from None


def parse_header(header: Mapping[Any, Any], where: Path) -> BackboneMetadata:
    """Validate what should be strings under string names as a backbone's header; errors as for `read_metadata`."""
    if header.get("format") != FORMAT:
        raise UserError(
            expected=f"format {FORMAT!r} in the header",
            found=repr(header.get("format")),
            where=where,
            cure="convert it with: moco-transfer convert",
        )
    if header.get("version") != str(VERSION):
        raise UserError(
            expected=f"version {VERSION}", found=repr(header.get("version")), where=where, cure="update moco-transfer"
        )
    fields: dict[str, Any] = {"arch": header.get("arch"), "fingerprint": header.get("fingerprint")}
    try:
        for name in ("stride_in_1x1", "preprocess", "origin"):
            fields[name] = json.loads(header[name])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(expected="a complete header", found=f"a fault in {name} ({error})", where=where) from None
    return parse(BackboneMetadata, fields, where)
