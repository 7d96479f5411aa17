"""A suite becomes steps, each done by one command of the toolkit in a process of its own, each known by its output.

    data (generated once) -> backbone (read, initialised or pretrained) -> evaluation (one cell of the table)

A step's output is named after the content that decides it. So a step is done when its output exists, what depends on an
output that does not exist yet is pending, and running a suite again does only what is missing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from converters.errors import UserError
from converters.metadata import BackboneMetadata, read_head_fingerprint, read_metadata
from evaluators.datasets.card import card
from evaluators.protocol import Protocol, adjustable, find
from evaluators.protocols import CATALOGUE
from pretrain.input.images import open_source
from pretrain.recipes import find_recipe
from transfer.suite import BackboneEntry, Suite, sample_folder


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
    resolver: Callable[[], Resolved] = field(repr=False)
    row: str = ""
    protocol: Protocol | None = None
    data_name: str = ""
    pretrain_seed: int | None = None
    trial_seed: int = 0

    @functools.cached_property
    def resolved(self) -> Resolved:
        """To be asked for once the outputs of all `needs` exist.

        Raises:
            UserError: if an input is not what it must be.
        """
        return self.resolver()


@dataclass
class Status:
    """Where a step stands."""

    state: Literal["pending", "running", "done", "failed", "not applicable"] = "pending"
    reason: str = ""
    resolved: Resolved | None = None
    seconds: float = 0.0
    already: bool = False
    """Done by an earlier run."""


def cell_id(
    backbone: BackboneMetadata, protocol: Protocol, dataset_fingerprint: str, seed: int, head: str | None
) -> str:
    """The id of a cell: a hash of everything that decides its number; of the projection head where it is used."""
    return _hash(
        {
            **({"head": head} if protocol.needs_head else {}),
            "backbone": backbone.fingerprint,
            "preprocess": backbone.preprocess.model_dump(),
            "stride_in_1x1": backbone.stride_in_1x1,
            "protocol": protocol.id,
            "settings": protocol.settings.model_dump(exclude=set(adjustable(protocol.settings))),
            "data": dataset_fingerprint,
            "seed": seed,
        }
    )


def steps(suite: Suite, data: dict[str, Path], run: Path) -> list[Step]:
    """Every step of the suite, in an order in which each comes after what it needs.

    Raises:
        UserError: for an unknown protocol or recipe, or a setting that does not exist.
    """
    return _Steps(suite, data, run).all()


class _Steps:
    """Makes the steps of one suite. What they ask of a data set is read once for all of them."""

    def __init__(self, suite: Suite, data: dict[str, Path], run: Path) -> None:
        self.suite, self.data, self.run = suite, data, run
        self.sample = self._sample()
        self.card = functools.cache(card)
        self.images = functools.cache(open_source)

    def all(self) -> list[Step]:
        protocols = [find(column.protocol, CATALOGUE).overridden(column.set) for column in self.suite.protocols]
        backbones = [
            self._pretraining(row, entry, seed) if entry.recipe is not None else self._conversion(row, entry, seed)
            for row, entry in self.suite.backbones.items()
            for seed in (self.suite.pretrain_seeds if entry.file is None else (None,))
        ]
        evaluations = [
            self._evaluation(backbone, protocol, column.data, seed)
            for backbone in backbones
            for column, protocol in zip(self.suite.protocols, protocols, strict=True)
            for seed in (self.suite.trial_seeds if protocol.settings.seeded else self.suite.trial_seeds[:1])
        ]
        generated = any(self._needs(name) for name in self.data)
        return [*([self.sample] if generated else []), *backbones, *evaluations]

    def _needs(self, data_name: str) -> tuple[Step, ...]:
        folder = sample_folder(self.suite, self.run)
        return (self.sample,) if self.data[data_name].parent == folder else ()

    def _sample(self) -> Step:
        output = sample_folder(self.suite, self.run)
        sample = self.suite.sample_data
        arguments = ("data", "sample", str(output), "--size", sample.size, "--seed", str(sample.seed))
        id_ = f"sample-{output.name}"
        resolved = Resolved(id=id_, arguments=arguments, output=output, folder=self.run / "cells" / id_)
        return Step(title="sample data", kind="data", needs=(), resolver=lambda: resolved)

    def _pretraining(self, row: str, entry: BackboneEntry, seed: int | None) -> Step:
        assert entry.recipe is not None
        assert entry.data is not None, "the suite has checked it"
        recipe = find_recipe(entry.recipe).overridden(entry.set)
        source = self.data[entry.data]

        def resolver() -> Resolved:
            content = {"recipe": recipe.computation(), "data": self.images(source).fingerprint, "seed": seed}
            id_ = f"pretrain-{_slug(row)}-s{seed}-{_hash(content)[:12]}"
            folder = self.run / "cells" / id_
            words = ("pretrain", recipe.id, "--data", str(source), "-o", str(folder), "--seed", str(seed))
            arguments = (*words, *_assignments(entry.set))
            return Resolved(id=id_, arguments=arguments, output=folder / "backbone.safetensors", folder=folder)

        return Step(
            title=f"pretrain {row} (seed {seed})",
            kind="pretraining",
            needs=self._needs(entry.data),
            resolver=resolver,
            row=row,
            pretrain_seed=seed,
        )

    def _conversion(self, row: str, entry: BackboneEntry, seed: int | None) -> Step:
        options = {"--family": entry.family, "--encoder": entry.encoder, "--prefix": entry.prefix}
        reading = [word for name, value in options.items() if value is not None for word in (name, value)]

        def resolver() -> Resolved:
            if entry.file is None:
                id_, source = f"random-{entry.arch}-s{seed}", f"random:{entry.arch}:{seed}"
            else:
                source = entry.file
                if not Path(source).is_file():
                    raise UserError(expected=f"the checkpoint of the row {row!r}", found="none", where=source)
                with Path(source).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256")
                # A file that is read in another way is another backbone.
                digest.update("\0".join(reading).encode())
                id_ = f"{_slug(row)}-{digest.hexdigest()[:12]}"
            output = self.run / "backbones" / f"{id_}.safetensors"
            arguments = ("convert", source, "--to", "backbone", *reading, "-o", str(output))
            return Resolved(id=id_, arguments=arguments, output=output, folder=self.run / "cells" / id_)

        title = f"backbone {row}" + ("" if seed is None else f" (seed {seed})")
        return Step(title=title, kind="backbone", needs=(), resolver=resolver, row=row, pretrain_seed=seed)

    def _evaluation(self, backbone: Step, protocol: Protocol, data_name: str, seed: int) -> Step:
        root = self.data[data_name]

        def resolver() -> Resolved:
            weights = backbone.resolved.output
            metadata = read_metadata(weights)
            head = read_head_fingerprint(weights, metadata.fingerprint)
            protocol.check_applicable(head, backbone.row)
            id_ = cell_id(metadata, protocol, self.card(protocol.settings, root).fingerprint, seed, head)
            words = ("evaluate", protocol.id, "--backbone", str(weights), "--data", str(root))
            names = ("--name", backbone.row, "--data-name", data_name, "--seed", str(seed), "-o", str(self.run))
            return Resolved(
                id=id_,
                arguments=(*words, *names, *_assignments(protocol.overrides + protocol.adjustments)),
                output=self.run / "results" / f"{id_}.json",
                folder=self.run / "cells" / id_,
            )

        known = "" if backbone.pretrain_seed is None else f"{backbone.pretrain_seed}, "
        return Step(
            title=f"{protocol.id} on {backbone.row} (seed {known}{seed})",
            kind="evaluation",
            needs=(*self._needs(data_name), backbone),
            resolver=resolver,
            row=backbone.row,
            protocol=protocol,
            data_name=data_name,
            pretrain_seed=backbone.pretrain_seed,
            trial_seed=seed,
        )


def _assignments(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for assignment in overrides for word in ("--set", assignment))


def _hash(content: object) -> str:
    """40 hex digits over the content as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def _slug(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "row"
