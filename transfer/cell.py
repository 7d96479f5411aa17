"""One cell of the table: an evaluation becomes a record."""

from __future__ import annotations

import contextlib
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from converters import families, files
from converters.backbone import Backbone
from converters.distributed import gather_values, parse_device, process_group, together
from converters.errors import CheckFailed, UserError
from converters.lock import exclusive
from evaluators.datasets.card import card
from evaluators.job import Job, Outcome, evaluate
from evaluators.protocol import Protocol
from pretrain.watchdog import watching
from reports import store
from reports.record import BackboneCard, DatasetCard, MetricValue, ProtocolCard, Provenance, ReceiptCard, Record
from transfer import provenance
from transfer.cells import cell_id


def evaluate_cell(
    protocol: Protocol,
    weights: str,
    data: Path,
    *,
    run: Path,
    row: str,
    data_name: str,
    seed: int,
    command: str,
    device: str | None = None,
    force: bool = False,
) -> tuple[Record, Path]:
    """Evaluate and write `run/results/<cell id>.json`; a record that exists is returned as it is unless `force`.

    Under a launcher every process of the group calls this; the main one writes.

    Args:
        protocol: how.
        weights: a path, or `random:ARCH:SEED`.
        data: root of the data set.
        run: folder of the run.
        row: name of the backbone in tables.
        data_name: name of the data set in tables.
        seed: of this trial.
        command: that makes the record again.
        device: as torch names it; by default a GPU where there is one.
        force: do it again although the record exists.

    Returns:
        The record and its path.

    Raises:
        UserError: for wrong input.
        NotApplicable: if the backbone lacks what the protocol asks for.
        CheckFailed: if a proof does not hold.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    commit, dirty = provenance.commit()  # now: the source may change while this runs
    results = run / "results"
    with (
        process_group(parse_device(device)) as world,
        watching(program="moco-transfer"),
        contextlib.ExitStack() as held,
    ):
        backbone = families.read_source(weights)
        head = None if backbone.head is None else backbone.head.fingerprint
        protocol.check_applicable(head, row)
        dataset = card(protocol.settings, data).fingerprint
        id_ = cell_id(backbone.metadata, protocol, dataset, seed, head)
        path = store.record_path(results, id_)
        workdir = run / "cells" / id_
        together(lambda: _take(held, workdir, results) if world.is_main else None)
        # The main process decides for all: each might look at another moment.
        if gather_values(path.exists() and not force)[0]:
            return _existing(path, row), path
        job = Job(backbone, data, protocol, seed, world.device, workdir, run / "features", fresh=force)
        outcome = evaluate(job)
        together(lambda: _check_unchanged(protocol, data, dataset, outcome) if world.is_main else None)
        record = Record(
            cell_id=id_,
            protocol=_protocol_card(protocol),
            backbone=_backbone_card(backbone, row),
            dataset=DatasetCard.model_validate(outcome.dataset.model_dump() | {"name": data_name}),
            pretrain_seed=backbone.origin.pretrain_seed,
            trial_seed=seed,
            metrics=_metrics(outcome),
            receipt=ReceiptCard.model_validate(outcome.receipt.model_dump() | {"head": outcome.head}),
            notes=outcome.notes,
            provenance=Provenance(
                command=command,
                commit=commit,
                dirty=dirty,
                versions=provenance.versions(),
                device=provenance.device_name(world.device.type, world.size),
                started=started.isoformat(timespec="seconds"),
                wall_seconds=round(time.monotonic() - clock, 3),
            ),
        )
        together(lambda: _finish(record, job, results, overwrite=force) if world.is_main else None)
        return record, path


def _take(held: contextlib.ExitStack, workdir: Path, results: Path) -> None:
    """Hold the cell's folder, and see that its record has a place: now, not after hours."""
    held.enter_context(exclusive(workdir, "evaluation"))
    with files.faults_of(results):
        results.mkdir(parents=True, exist_ok=True)


def _check_unchanged(protocol: Protocol, data: Path, fingerprint: str, outcome: Outcome) -> None:
    if {outcome.dataset.fingerprint, card(protocol.settings, data).fingerprint} != {fingerprint}:
        raise CheckFailed(f"{data}: the data set changed during the evaluation, so its number belongs to no data set")


def _finish(record: Record, job: Job, results: Path, *, overwrite: bool) -> None:
    """Write the record; only then is what the job needed to go on of no use."""
    with files.faults_of(results):
        store.write_record(record, results, overwrite=overwrite)
    shutil.rmtree(job.unfinished, ignore_errors=True)


def _existing(path: Path, row: str) -> Record:
    record = store.read_record(path)
    if record.backbone.name != row:
        raise UserError(
            expected=f"no record of this cell, or one named {row!r}",
            found=f"one named {record.backbone.name!r}",
            where=path,
            cure="give that name, another folder with -o, or --force",
        )
    return record


def _protocol_card(protocol: Protocol) -> ProtocolCard:
    return ProtocolCard(task=protocol.task, **protocol.model_dump(mode="json"))


def _backbone_card(backbone: Backbone, row: str) -> BackboneCard:
    return BackboneCard(
        name=row,
        fingerprint=backbone.fingerprint,
        arch=backbone.arch,
        origin=backbone.origin.model_dump(mode="json"),
    )


def _metrics(outcome: Outcome) -> tuple[MetricValue, ...]:
    return tuple(MetricValue.model_validate(metric.model_dump()) for metric in outcome.metrics)
