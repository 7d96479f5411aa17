"""Is the file that a configuration names the backbone's? Told by the fingerprint of what is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from converters import families
from converters.backbone import Backbone
from converters.errors import UserError
from converters.families import Reading, matching
from converters.families.choice import LAYOUTS
from converters.lint.finding import shown
from converters.metadata import BackboneMetadata, Origin

State = Literal["same", "other", "unreadable", "absent", "remote"]

NOT_FOR_MMENGINE = (".safetensors", ".pkl")
"""Suffixes of files that it cannot open."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class NamedFile:
    """A file of weights that a configuration names."""

    state: State
    about: str
    """What was found, in words."""
    path: Path | None = None
    """Where it lies, if it does."""
    beside: bool = False
    """It lies beside the configuration, while frameworks look for it in the working directory."""
    kind: str = ""
    """What the file is (see `families.identify`), where it could be read."""
    origin: Origin | None = None
    """How its encoder was found, where it is a checkpoint of others; of a remote file, where the backbone's source has
    its name."""
    suffix: str = ""

    @property
    def prefix(self) -> str:
        """Before the names of its encoder."""
        return "" if self.origin is None else self.origin.prefix

    @property
    def suits_mmengine(self) -> bool:
        """Whether mmengine can open it, and finds plain names where it looks; their prefix is another matter."""
        if self.suffix in NOT_FOR_MMENGINE or self.kind in ("backbone", "detectron2"):
            return False
        return self.origin is None or names_suit_mmengine(self.origin)


def look_at(named: str, config: Path, metadata: BackboneMetadata) -> NamedFile:
    """What is known of the file `named` in the configuration at `config`."""
    if match := _SCHEME.match(named):
        # Never the same: a name is no proof, and `R-50.pkl` lies in many places with weights of its own.
        name = Path(named.partition("?")[0]).name
        origin = metadata.origin if name and name == metadata.origin.file else None
        about = f"{shown(named)}, a file of {match.group(1)}'s that cannot be read here"
        return NamedFile("remote", about, origin=origin, suffix=Path(name).suffix)
    bare = Path(named.partition("?")[0])
    beside = config.parent / bare
    try:
        path = bare if bare.is_file() else beside if beside.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        path = None
    if path is None:
        return NamedFile("absent", f"{shown(named)}, where no file is", suffix=bare.suffix)
    near = path is beside and path.resolve() != bare.absolute()
    try:
        kind, backbone = _identify(path, metadata)
    except UserError as error:
        about = f"{shown(named)}, in which no backbone can be read ({error.found})"
        return NamedFile("unreadable", about, path, near, suffix=path.suffix)
    same = backbone.metadata.fingerprint == metadata.fingerprint
    about = f"{shown(named)}, whose weights have the fingerprint {backbone.metadata.fingerprint[:12]}"
    its = backbone.metadata.origin if kind == "checkpoint" else None
    return NamedFile("same" if same else "other", about, path, near, kind, its, path.suffix)


def _identify(path: Path, metadata: BackboneMetadata) -> tuple[families.Kind, Backbone]:
    """The file's backbone; where it holds several, the one that was read for `metadata`."""
    origin = metadata.origin
    if origin.file != path.name or (origin.encoder != "k" and origin.family != matching.DECLARED):
        return families.identify(path)
    how = Reading(prefix=origin.prefix) if origin.family == matching.DECLARED else Reading(encoder="k")
    try:
        return families.identify(path, how)
    except UserError:  # another file of this name
        return families.identify(path)


def names_suit_mmengine(origin: Origin) -> bool:
    """Whether a checkpoint's names, behind their prefix, are those of OpenMMLab's ResNet, and lie where it looks."""
    namings = {layout.naming for layout in LAYOUTS if layout.family == origin.family}
    return origin.container in ("", "state_dict") and (not namings or "torchvision" in namings)
