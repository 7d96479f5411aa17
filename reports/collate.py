"""Records -> the comparison table: rows are backbones by name, columns protocols, cells mean ± std over seeds."""

from __future__ import annotations

import difflib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from reports.columns import Column, arrange, headline
from reports.current import by_seeds, choose
from reports.errors import ReportError
from reports.numbers import same_when_shown, short
from reports.plan import Plan, PlannedCell
from reports.record import Record

_ORIGIN = ("method", "recipe", "epochs", "pretrain_data")
"""What must be the same for all seeds of a row."""


@dataclass(frozen=True)
class Cell:
    """One backbone under one protocol."""

    row: str
    column: Column
    records: tuple[Record, ...] = ()
    """By pretrain seed, then trial seed."""
    failed: tuple[PlannedCell, ...] = ()
    missing: tuple[PlannedCell, ...] = ()
    not_applicable: tuple[PlannedCell, ...] = ()
    """The backbone lacks what the protocol asks for."""
    planned: bool = True
    """False where there is a plan and this cell is not in it."""
    delta: float | None = None
    """Mean minus the baseline's mean; None for the baseline itself and where either has no number."""
    best: bool = False
    """Nothing else in the column prints a better number, and something prints a worse one."""

    @property
    def runs(self) -> tuple[Record, ...]:
        """The records that count: kNN draws nothing at random, so its other trial seeds only repeat a run."""
        found: dict[tuple[object, ...], Record] = {}
        for record in self.records:
            alone = None if record.protocol.task == "knn" else record.trial_seed
            key = record.pretrain_seed, alone, record.backbone.fingerprint, headline(record).value
            found.setdefault(key, record)
        return tuple(found.values())

    @property
    def numbers(self) -> tuple[float, ...]:
        """The headline metric of each run."""
        return tuple(headline(record).value for record in self.runs)

    @property
    def n(self) -> int:
        """How many runs the mean is taken over."""
        return len(self.runs)

    @property
    def mean(self) -> float | None:
        """Over the runs; None without any."""
        return statistics.mean(self.numbers) if self.records else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (divisor n - 1); None for fewer than two runs."""
        return statistics.stdev(self.numbers) if self.n >= 2 else None

    @property
    def over(self) -> str:
        """What the runs differ in: `pretrain seeds`, `trial seeds`, both, or nothing for a single run."""
        pretrain = len({record.pretrain_seed for record in self.runs}) > 1
        trial = len({record.trial_seed for record in self.runs}) > 1
        return {
            (False, False): "",
            (True, False): "pretrain seeds",
            (False, True): "trial seeds",
            (True, True): "pretrain and trial seeds",
        }[pretrain, trial]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of the records: the headline first, then in the order of the records."""
        names = [metric.name for record in self.records for metric in record.metrics]
        return tuple(dict.fromkeys([*(record.protocol.headline for record in self.records), *names]))

    @property
    def better(self) -> bool | None:
        """Whether the delta is an improvement; None where there is none, or one that prints as zero."""
        if self.delta is None or same_when_shown(self.delta, 0.0, self.column.unit):
            return None
        return (self.delta > 0) == self.column.higher_is_better

    @property
    def state(self) -> str:
        """`done`, `partial` (seeds missing or failed), `failed`, `missing`, `not applicable`, `not planned`."""
        if self.records:
            return "partial" if self.failed or self.missing else "done"
        if self.failed:
            return "failed"
        if self.not_applicable and not self.missing:
            return "not applicable"
        return "missing" if self.planned else "not planned"


@dataclass(frozen=True)
class Table:
    """What all forms of the report show."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, str], Cell]
    """By row and name of the column; every pair is there."""
    baseline: str | None
    warnings: tuple[str, ...]
    """What a reader must know before comparing numbers."""

    def cell(self, row: str, column: Column) -> Cell:
        """The cell at a row and a column."""
        return self.cells[row, column.name]

    def weights(self, row: str) -> tuple[str, ...]:
        """The fingerprints behind a row, by pretrain seed."""
        records = [record for column in self.columns for record in self.cell(row, column).records]
        return tuple(dict.fromkeys(record.backbone.fingerprint for record in sorted(records, key=by_seeds)))

    @property
    def records(self) -> tuple[Record, ...]:
        """All records that the table is made of, row by row."""
        return tuple(record for cell in self for record in cell.records)

    def __iter__(self) -> Iterator[Cell]:
        return (self.cell(row, column) for row in self.rows for column in self.columns)


def collate(
    records: Sequence[Record], plan: Plan | None = None, baseline: str | None = None, name: str = "results"
) -> Table:
    """Make the table.

    Args:
        records: in any order; the table does not depend on it.
        plan: what the run was meant to hold; gives the order, the title, and what is missing or failed.
        baseline: the row that deltas are taken to; the plan's where None.
        name: of the table, where there is no plan.

    Raises:
        ReportError: for a baseline that is no row, or two records for one place in the table.
    """
    current = choose(records, plan)
    records = current.records
    columns = arrange(records, plan)
    rows = _rows(records, plan)
    baseline = baseline if baseline is not None else plan.baseline if plan else None
    if baseline is not None and baseline not in rows:
        close = difflib.get_close_matches(baseline, rows, n=1, cutoff=0.5)
        raise ReportError(
            expected="the name of a row as baseline",
            found=repr(baseline),
            cure=f"did you mean {close[0]!r}?" if close else f"rows: {', '.join(rows)}",
        )

    held: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        held[record.backbone.name, columns.of_record[record.cell_id]].append(record)
    gaps: dict[tuple[str, str], list[PlannedCell]] = defaultdict(list)
    asked: set[tuple[str, str]] = set()
    for position, planned in enumerate(plan.cells if plan else ()):
        place = planned.row, columns.of_planned[position]
        asked.add(place)
        if position in current.unfilled:
            gaps[place].append(planned)

    cells: dict[tuple[str, str], Cell] = {}
    for column in columns.ordered:
        filled = {
            row: Cell(
                row=row,
                column=column,
                records=tuple(held[row, column.name]),
                failed=tuple(gap for gap in gaps[row, column.name] if gap.state == "failed"),
                missing=tuple(gap for gap in gaps[row, column.name] if gap.state in ("missing", "done")),
                not_applicable=tuple(gap for gap in gaps[row, column.name] if gap.state == "not applicable"),
                planned=plan is None or (row, column.name) in asked,
            )
            for row in rows
        }
        for row, cell in _compare(filled, column, baseline).items():
            cells[row, column.name] = cell
    table = Table(
        name=plan.name if plan else name,
        title=(plan.title or plan.name) if plan else name,
        rows=rows,
        columns=columns.ordered,
        cells=cells,
        baseline=baseline,
        warnings=(*columns.warnings, *_mixed_rows(records), *current.warnings),
    )
    return table


def _rows(records: Iterable[Record], plan: Plan | None) -> tuple[str, ...]:
    """The plan's order, then the other names by alphabet."""
    planned = [*plan.rows, *(cell.row for cell in plan.cells)] if plan else []
    return tuple(dict.fromkeys([*planned, *sorted({record.backbone.name for record in records})]))


def _compare(cells: dict[str, Cell], column: Column, baseline: str | None) -> dict[str, Cell]:
    """The cells of a column with their deltas, and the best of them marked."""
    means = {row: cell.mean for row, cell in cells.items() if cell.mean is not None}
    if not means:
        return cells
    base = means.get(baseline) if baseline is not None else None
    top = max(means.values()) if column.higher_is_better else min(means.values())
    # Numbers that print alike are alike: the reader cannot see more, and a std is mostly larger than the rest.
    best = {row for row, mean in means.items() if same_when_shown(mean, top, column.unit)}
    if len(best) == len(means):
        best = set()
    return {
        row: replace(
            cell,
            delta=means[row] - base if row in means and base is not None and row != baseline else None,
            best=row in best,
        )
        for row, cell in cells.items()
    }


def _mixed_rows(records: Iterable[Record]) -> Iterator[str]:
    """A row is one backbone: one recipe on one data set, one set of weights a pretrain seed. Say so where it is not."""
    weights: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    origins: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        backbone = record.backbone
        weights[backbone.name, record.pretrain_seed].add(backbone.fingerprint)
        origins[backbone.name, "architecture"].add(backbone.arch)
        for entry in _ORIGIN:
            origins[backbone.name, entry.replace("_", " ")].add(str(backbone.origin.get(entry, "")))
    for (row, seed), found in sorted(weights.items(), key=str):
        if len(found) > 1:
            which = "" if seed is None else f" with pretrain seed {seed}"
            yield f"{row}{which}: the numbers are of different weights ({', '.join(map(short, sorted(found)))})."
    for (row, entry), found in sorted(origins.items()):
        if len(found) > 1:
            said = ", ".join(short(value) if len(value) == 64 else value or "none" for value in sorted(found))
            yield f"{row}: the backbones of this row differ in their {entry} ({said})."
