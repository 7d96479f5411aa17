"""Which records a table is made of: a run's folder can also hold some of weights, settings or data replaced since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.columns import arrange, describe
from reports.errors import ReportError
from reports.numbers import short
from reports.plan import Plan, PlannedCell
from reports.record import Record

_Group = tuple[str, str, tuple[str, ...]]
"""Row, protocol, overrides."""


@dataclass(frozen=True)
class Current:
    """What is left of the records, and of the plan."""

    records: tuple[Record, ...]
    """At most one for each place (row, column, seeds), by seeds, under the plan's names."""
    unfilled: frozenset[int]
    """Positions in the plan of the cells that no record fills."""
    warnings: tuple[str, ...]
    """What a reader must know about the choice."""


def choose(records: Iterable[Record], plan: Plan | None) -> Current:
    """Hold the records against the plan of their run.

    A record whose cell id the plan names belongs where the plan puts it, whatever the row, the data set or the
    overrides were called when it was made. Of the others, those that stand where the plan has another cell
    are left out.

    Raises:
        ReportError: if two records are left for one place.
    """
    records = sorted(records, key=by_seeds)
    if plan is None:
        _refuse_rivals(records)
        return Current(tuple(records), frozenset(), ())
    named = _named(plan)
    groups: dict[_Group, list[int]] = defaultdict(list)
    for position, cell in enumerate(plan.cells):
        groups[cell.row, cell.protocol, tuple(sorted(cell.overrides))].append(position)

    kept: list[Record] = []
    filled: set[int] = set()
    warnings: list[str] = []
    for record in records:
        if record.cell_id in named:
            position = named[record.cell_id]
            filled.add(position)
            kept.append(_under_names_of(plan.cells[position], record))
            continue
        group = groups[record.backbone.name, record.protocol.id, tuple(sorted(record.protocol.overrides))]
        group = [position for position in group if plan.cells[position].data in ("", record.dataset.name)]
        here = [position for position in group if _same_seeds(plan.cells[position], record)]
        objection = _objection([plan.cells[position] for position in here])
        where = f"{record.backbone.name}, {record.protocol.id}, {describe(record)}"
        if objection:
            warnings.append(f"{where}: left out {record.cell_id}.json, {objection}")
            continue
        if here:
            warnings.append(f"{where}: counted, but made before this plan; its weights may have been replaced.")
        elif group:
            warnings.append(f"{where}: counted, but these seeds are not in the plan of this run.")
        filled.update(here)
        kept.append(record)
    _refuse_rivals(kept)
    kept.sort(key=by_seeds)
    return Current(tuple(kept), frozenset(range(len(plan.cells))) - filled, tuple(warnings))


def by_seeds(record: Record) -> tuple[bool, int, int, str]:
    """The order of records in a cell."""
    return record.pretrain_seed is not None, record.pretrain_seed or 0, record.trial_seed, record.cell_id


def _named(plan: Plan) -> dict[str, int]:
    """Cell id -> position in the plan."""
    found: dict[str, int] = {}
    for position, cell in enumerate(plan.cells):
        if cell.cell_id is None:
            continue
        first = found.setdefault(cell.cell_id, position)
        # A second row for the same weights is refused by the run: the record is that of the other one.
        if plan.cells[first].state == "failed" != cell.state:
            found[cell.cell_id] = position
    return found


def _objection(here: Sequence[PlannedCell]) -> str:
    """Why a record that the plan does not name cannot stand for the cells planned at its place; empty if it can."""
    if any(cell.cell_id for cell in here):
        return "which is not the cell that this run's plan names."
    # Cells without an id: their backbone does not exist. Where making it failed, an older one is no substitute.
    failed = [cell for cell in here if cell.state == "failed"]
    return (
        f"which was made before this plan, whose cell failed ({failed[0].reason or 'no reason known'})."
        if failed
        else ""
    )


def _same_seeds(cell: PlannedCell, record: Record) -> bool:
    # A checkpoint may itself name the seed of its pretraining, where the plan of the run knows none.
    return cell.pretrain_seed in (None, record.pretrain_seed) and cell.trial_seed == record.trial_seed


def _under_names_of(cell: PlannedCell, record: Record) -> Record:
    return record.model_copy(
        update={
            "backbone": record.backbone.model_copy(update={"name": cell.row}),
            "protocol": record.protocol.model_copy(update={"overrides": cell.overrides}),
            "dataset": record.dataset.model_copy(update={"name": cell.data or record.dataset.name}),
        }
    )


def _refuse_rivals(records: Sequence[Record]) -> None:
    columns = arrange(records, None).of_record
    first: dict[tuple[str, str, int | None, int], Record] = {}
    for record in records:
        column = columns[record.cell_id]
        rival = first.setdefault((record.backbone.name, column, record.pretrain_seed, record.trial_seed), record)
        if rival is not record:
            raise ReportError(
                expected=f"one record of {record.backbone.name!r} under {column} with {describe(record)}",
                found=" and ".join(
                    f"{one.cell_id}.json with the weights {short(one.backbone.fingerprint)}" for one in (rival, record)
                ),
                cure="give the backbones different names, or remove the record that is out of date",
            )
