"""The suite file: backbones × protocols × seeds, and where each data set lies."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from converters.errors import UserError
from converters.settings import Settings, nearest, override, parse, read_yaml
from transfer.sample.generate import GENERATOR_VERSION, SIZES

SAMPLE_SCHEME = "sample:"
"""A data set written as `sample:LAYOUT` is generated below the run's folder."""
SAMPLE_LAYOUTS = ("images", "voc", "coco", "cityscapes")
DATA_VARIABLE = "MOCO_TRANSFER_DATA_"
"""Prefix of the environment variables that say where a data set lies: `MOCO_TRANSFER_DATA_IMAGENET=/data/imagenet`."""


Seed = Annotated[int, Field(ge=0, lt=2**63)]


class BackboneEntry(Settings):
    """One row of the table: exactly one of `file`, `init` and `recipe` says where the weights come from."""

    file: str | None = None
    """A checkpoint of any family that `moco-transfer inspect` knows."""
    family: str | None = None
    """How to read `file`, where its keys leave it open."""
    encoder: Literal["q", "k"] | None = None
    """Of `file`'s two encoders: q, the trained one, or k, the averaged one."""
    prefix: str | None = None
    """What the names of `file`'s encoder begin with; whatever is elsewhere is left out."""
    init: str | None = Field(default=None, pattern="^random$")
    """`random`: a seeded random initialisation of `arch`."""
    arch: str | None = None
    recipe: str | None = None
    """The id of a pretraining recipe; the suite pretrains it, once a seed."""
    data: str | None = None
    """For `recipe`: the name of a data set of the suite."""
    set: tuple[str, ...] = ()
    """For `recipe`: dotted assignments to its settings."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("file", "init", "recipe") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of file, init and recipe (given: {', '.join(given) or 'none'})")
        needs = {"file": (), "init": ("arch",), "recipe": ("data",)}[given[0]]
        allowed = {"file": {"family", "encoder", "prefix"}, "init": {"arch"}, "recipe": {"data", "set"}}[given[0]]
        for name in needs:
            if getattr(self, name) is None:
                raise ValueError(f"{given[0]} needs {name} as well")
        for name in ("family", "encoder", "prefix", "arch", "data", "set"):
            if getattr(self, name) not in (None, ()) and name not in allowed:
                raise ValueError(f"{name} has no meaning beside {given[0]}")
        return self


class ProtocolEntry(Settings):
    """One column of the table."""

    protocol: str
    """Its id."""
    data: str
    """The name of a data set of the suite."""
    set: tuple[str, ...] = ()
    """Dotted assignments to its settings; any of them marks the column as modified."""


class SampleEntry(Settings):
    """How the sample data is generated, where a data set is `sample:LAYOUT`."""

    size: str = "small"
    seed: Seed = 0

    @field_validator("size")
    @classmethod
    def _size_known(cls, size: str) -> str:
        if size not in SIZES:
            raise ValueError(nearest(size, SIZES))
        return size


class Suite(Settings):
    """A benchmark: what is compared, how, and on which data."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Also the name of the run's folder."""
    title: str = ""
    data: dict[str, str | None]
    """Name -> folder, `sample:LAYOUT`, or null where `--data` or the environment must say it."""
    sample_data: SampleEntry = Field(default_factory=SampleEntry)
    backbones: dict[str, BackboneEntry] = Field(min_length=1)
    """Row name -> where the weights come from."""
    protocols: tuple[ProtocolEntry, ...] = Field(min_length=1)
    pretrain_seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    """Seeds of the pretrainings and random initialisations."""
    trial_seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    """Seeds of the evaluations; a protocol without randomness, as kNN, takes the first alone."""
    baseline: str | None = None
    """The row against which deltas are shown."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for name in ("pretrain_seeds", "trial_seeds", "protocols"):
            entries = getattr(self, name)
            if len(set(entries)) < len(entries):
                raise ValueError(f"{name} holds an entry twice")
        return self

    @model_validator(mode="after")
    def _names_known(self) -> Self:
        for row, backbone in self.backbones.items():
            if backbone.data is not None and backbone.data not in self.data:
                raise ValueError(f"backbones.{row}.data is {backbone.data!r}: {nearest(backbone.data, self.data)}")
        for column in self.protocols:
            if column.data not in self.data:
                raise ValueError(f"{column.protocol} has data {column.data!r}: {nearest(column.data, self.data)}")
        if self.baseline is not None and self.baseline not in self.backbones:
            raise ValueError(f"baseline is {self.baseline!r}: {nearest(self.baseline, self.backbones)}")
        for name, place in self.data.items():
            layout = (place or "").removeprefix(SAMPLE_SCHEME)
            if (place or "").startswith(SAMPLE_SCHEME) and layout not in SAMPLE_LAYOUTS:
                raise ValueError(f"data.{name} is {place!r}: {nearest(layout, SAMPLE_LAYOUTS)}")
        return self


def built_in() -> list[str]:
    """The names of the suites that come with the toolkit."""
    folder = resources.files("transfer") / "suites"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_suite(name_or_path: str, assignments: Sequence[str] = ()) -> Suite:
    """The suite of this name that comes with the toolkit, or the YAML file at this path.

    Raises:
        UserError: if there is neither, or the file is no valid suite.
    """
    path = Path(name_or_path)
    if name_or_path in built_in():
        path = Path(str(resources.files("transfer") / "suites" / f"{name_or_path}.yaml"))
    elif not path.is_file():
        raise UserError(
            expected="a suite file, or the name of a built-in suite",
            found="neither",
            where=name_or_path,
            cure=nearest(name_or_path, built_in()),
        )
    suite = parse(Suite, read_yaml(path), path)
    return override(suite, assignments) if assignments else suite


def sample_folder(suite: Suite, run: Path) -> Path:
    """Where the run's sample data lies: named after what decides its bytes."""
    sample = suite.sample_data
    return run / "sample" / f"{sample.size}-s{sample.seed}-v{GENERATOR_VERSION}"


def locate_data(
    suite: Suite, given: Sequence[str], run: Path, environment: Mapping[str, str] = os.environ
) -> dict[str, Path]:
    """Where each data set of the suite lies.

    A `NAME=DIR` of `given` comes before an environment variable, and that before the suite's own word. Generated data
    sets are in `sample_folder` and need not exist yet; every other must. Relative folders count from the current one.

    Raises:
        UserError: for a malformed or unknown `--data`, a data set without a place, or a folder that does not exist.
    """
    places = {name: environment.get(_variable(name), place) for name, place in suite.data.items()}
    for assignment in given:
        name, equals, folder = assignment.partition("=")
        if not equals or not folder:
            raise UserError(expected="NAME=DIR", found=repr(assignment), where="--data")
        if name not in places:
            raise UserError(
                expected="a data set of the suite", found=repr(name), where="--data", cure=nearest(name, places)
            )
        places[name] = folder
    located = {}
    for name, place in places.items():
        if place is None:
            raise UserError(
                expected=f"a folder for the data set {name!r}",
                found="none",
                where=f"suite {suite.name}",
                cure=f"give --data {name}=DIR or set {_variable(name)}",
            )
        if place.startswith(SAMPLE_SCHEME):
            located[name] = sample_folder(suite, run) / place.removeprefix(SAMPLE_SCHEME)
        elif Path(place).is_dir():
            located[name] = Path(place)
        else:
            raise UserError(expected=f"the folder of the data set {name!r}", found="none", where=place)
    return located


def _variable(name: str) -> str:
    return DATA_VARIABLE + name.upper().replace("-", "_")


def _write_schema() -> None:
    """Write the JSON Schema that editors complete suite files with."""
    path = Path(__file__).parent / "suites" / "suite.schema.json"
    path.write_text(json.dumps(Suite.model_json_schema(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_schema()
