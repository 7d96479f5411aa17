"""A suite becomes steps, each done by one command of the toolkit in a process of its own, each known by its output.

    data (generated once) -> backbone (read, initialised or pretrained) -> evaluation (one cell of the table)

A step's output is named after the content that decides it. So a step is done when its output exists, what depends on an
output that does not exist yet is pending, and running a suite again does only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from converters.errors import UserError
from converters.metadata import BackboneMetadata, read_metadata
from evaluators.datasets.card import card
from evaluators.protocol import Protocol, find
from evaluators.protocols import CATALOGUE
from pretrain.images import ImageFolder
from pretrain.recipes import find_recipe
from transfer.suite import BackboneEntry, Suite


@dataclass(frozen=True)
class Resolved:
    """A step whose inputs exist."""

    id: str
    arguments: tuple[str, ...]
    """Of the command line, after `moco-transfer`."""
    output: Path
    """Exists when the step is done, and only then: every command writes it atomically."""
    folder: Path
    """For its log and by-products."""


@dataclass(frozen=True, eq=False)
class Step:
    """Something that one command does."""

    title: str
    kind: Literal["data", "pretraining", "backbone", "evaluation"]
    needs: tuple[Step, ...]
    resolve: Callable[[], Resolved] = field(repr=False)
    """To be called once the outputs of all `needs` exist."""
    row: str = ""
    protocol: Protocol | None = None
    pretrain_seed: int | None = None
    trial_seed: int = 0


def cell_id(backbone: BackboneMetadata, protocol: Protocol, dataset_fingerprint: str, seed: int) -> str:
    """The id of a cell: a hash of everything that decides its number."""
    return _hash(
        {
            "backbone": backbone.fingerprint,
            "preprocess": backbone.preprocess.model_dump(),
            "stride_in_1x1": backbone.stride_in_1x1,
            "protocol": protocol.id,
            "settings": protocol.settings.model_dump(),
            "data": dataset_fingerprint,
            "seed": seed,
        }
    )


def steps(suite: Suite, data: dict[str, Path], run: Path) -> list[Step]:
    """Every step of the suite, in an order in which each comes after what it needs.

    Raises:
        UserError: for an unknown protocol or recipe, or a setting that does not exist.
    """
    protocols = [find(column.protocol, CATALOGUE).overridden(column.set) for column in suite.protocols]
    sample = _sample_step(suite, run)
    generated = {name for name, place in data.items() if place.parent == run / "sample"}

    def needs_of(name: str) -> tuple[Step, ...]:
        return (sample,) if name in generated else ()

    backbones: list[Step] = []
    for row, entry in suite.backbones.items():
        for seed in suite.pretrain_seeds if entry.file is None else (None,):
            needs = needs_of(entry.data) if entry.data is not None else ()
            backbones.append(_backbone_step(row, entry, seed=seed, data=data, run=run, needs=needs))
    evaluations = [
        _evaluation_step(
            backbone, protocol, column.data, root=data[column.data], seed=seed, run=run, needs=needs_of(column.data)
        )
        for backbone in backbones
        for column, protocol in zip(suite.protocols, protocols, strict=True)
        for seed in suite.trial_seeds
    ]
    return [*([sample] if generated else []), *backbones, *evaluations]


def _sample_step(suite: Suite, run: Path) -> Step:
    output = run / "sample"
    size, seed = suite.sample_data.size, str(suite.sample_data.seed)

    def resolve() -> Resolved:
        arguments = ("data", "sample", str(output), "--size", size, "--seed", seed)
        return Resolved(
            id=f"sample-{size}-s{seed}", arguments=arguments, output=output, folder=run / "cells" / "sample"
        )

    return Step(title="sample data", kind="data", needs=(), resolve=resolve)


def _backbone_step(
    row: str, entry: BackboneEntry, *, seed: int | None, data: dict[str, Path], run: Path, needs: tuple[Step, ...]
) -> Step:
    if entry.recipe is not None and entry.data is not None:
        recipe = find_recipe(entry.recipe).overridden(entry.set)
        source = data[entry.data]

        def pretraining() -> Resolved:
            content = {"recipe": recipe.computation(), "data": ImageFolder.open(source).fingerprint, "seed": seed}
            id_ = f"pretrain-{_slug(row)}-s{seed}-{_hash(content)[:12]}"
            folder = run / "cells" / id_
            overrides = [word for assignment in entry.set for word in ("--set", assignment)]
            arguments = (
                "pretrain",
                recipe.id,
                "--data",
                str(source),
                "-o",
                str(folder),
                "--seed",
                str(seed),
                *overrides,
            )
            return Resolved(id=id_, arguments=arguments, output=folder / "backbone.safetensors", folder=folder)

        title = f"pretrain {row} (seed {seed})"
        return Step(title=title, kind="pretraining", needs=needs, resolve=pretraining, row=row, pretrain_seed=seed)

    def conversion() -> Resolved:
        if entry.file is not None:
            path = Path(entry.file)
            if not path.is_file():
                raise UserError(expected=f"the checkpoint of the row {row!r}", found="none", where=path)
            with path.open("rb") as file:
                id_ = f"{_slug(row)}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
            family = ("--family", entry.family) if entry.family else ()
            words: tuple[str, ...] = ("convert", entry.file, "--to", "backbone", *family)
        else:
            id_ = f"random-{entry.arch}-s{seed}"
            words = ("convert", f"random:{entry.arch}:{seed}", "--to", "backbone")
        output = run / "backbones" / f"{id_}.safetensors"
        return Resolved(id=id_, arguments=(*words, "-o", str(output)), output=output, folder=run / "cells" / id_)

    title = f"backbone {row}" + ("" if seed is None else f" (seed {seed})")
    return Step(title=title, kind="backbone", needs=needs, resolve=conversion, row=row, pretrain_seed=seed)


def _evaluation_step(
    backbone: Step, protocol: Protocol, data_name: str, *, root: Path, seed: int, run: Path, needs: tuple[Step, ...]
) -> Step:
    def resolve() -> Resolved:
        weights = backbone.resolve().output
        id_ = cell_id(read_metadata(weights), protocol, card(protocol.settings, root).fingerprint, seed)
        arguments: tuple[str, ...] = ("evaluate", protocol.id, "--backbone", str(weights), "--data", str(root))
        arguments += ("--name", backbone.row, "--data-name", data_name, "--seed", str(seed), "-o", str(run))
        arguments += tuple(word for assignment in protocol.overrides for word in ("--set", assignment))
        return Resolved(id=id_, arguments=arguments, output=run / "results" / f"{id_}.json", folder=run / "cells" / id_)

    seeds = f"seeds {backbone.pretrain_seed}, {seed}" if backbone.pretrain_seed is not None else f"seed {seed}"
    return Step(
        title=f"{protocol.id} on {backbone.row} ({seeds})",
        kind="evaluation",
        needs=(*needs, backbone),
        resolve=resolve,
        row=backbone.row,
        protocol=protocol,
        pretrain_seed=backbone.pretrain_seed,
        trial_seed=seed,
    )


def _hash(content: object) -> str:
    """40 hex digits over the content as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def _slug(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "row"
