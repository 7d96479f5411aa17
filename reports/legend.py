"""The words under a table: how to read its numbers. The same in every form of the report."""

from __future__ import annotations

from collections import Counter

from reports.collate import Cell, Table
from reports.columns import describe

_STD = "± is the sample standard deviation (divisor n − 1) over the n runs given in brackets, shown for n ≥ 2"


def sample_note(table: Table) -> str | None:
    """The label that sample data carries wherever its numbers show; None where there is none."""
    sample = [column for column in table.columns if column.sample]
    if not sample:
        return None
    which = (
        "All numbers" if len(sample) == len(table.columns) else "The numbers of " + ", ".join(c.title for c in sample)
    )
    return (
        f"SAMPLE DATA. {which} were made on small generated sample data. They show that the line works, and say "
        "nothing about real benchmarks."
    )


def legend(table: Table, best: str) -> list[str]:
    """How to read the numbers.

    Args:
        table: the table.
        best: how the best number of a column is marked, as `bold`.
    """
    lines = [_spread(table)]
    if table.baseline is not None:
        lines.append(f"The signed number is the difference to the row {table.baseline}, of the means before rounding.")
    if any(cell.best for cell in table):
        lines.append(f"The best number of each column is {best}; numbers that print alike share the place.")
    if table.columns:
        lines.append("↑ higher is better, ↓ lower is better.")
    if table.records:
        lines.append(
            "Weights: the first digits of the fingerprint that was read back from the live model before the first "
            "iteration and found equal to the backbone's."
        )
    return lines


def over_which(table: Table) -> str:
    """What the ± of all cells runs over; empty where cells differ in it, so that each must say it."""
    kinds = {cell.over for cell in table if cell.std is not None}
    return kinds.pop() if len(kinds) == 1 else ""


def count(cell: Cell, table: Table) -> str:
    """The n of a cell in brackets, with what its runs differ in where the legend does not say it for all."""
    if cell.n == 0:
        return ""
    over = "" if over_which(table) else cell.over
    return f"({cell.n} {over})" if over else f"({cell.n})"


def gaps(cell: Cell) -> str:
    """What a cell lacks, in words: `failed`, `1 failed, 2 missing` beside a number; empty if whole."""
    if cell.state in ("failed", "missing", "not applicable"):
        return cell.state
    if cell.state == "not planned":
        return "–"
    parts = [f"{len(found)} {word}" for found, word in ((cell.failed, "failed"), (cell.missing, "missing")) if found]
    return ", ".join(parts)


def notes(table: Table) -> list[str]:
    """What the evaluations themselves want the reader to know, once for each column and note."""
    seen: Counter[tuple[str, str]] = Counter()
    for cell in table:
        for record in cell.records:
            seen.update((cell.column.title, note) for note in record.notes)
        if repeated := len(cell.records) - cell.n:
            seen[
                cell.column.title, "kNN draws nothing at random: other trial seeds repeat a run, and are not counted"
            ] += repeated
    return [f"{title}: {note} ({n} {'run' if n == 1 else 'runs'})" for (title, note), n in seen.items()]


def inapplicable(table: Table) -> list[str]:
    """One line for each cell whose backbone lacks what the protocol asks for."""
    return [
        f"{cell.row}, {cell.column.title}: {cell.not_applicable[0].reason}" for cell in table if cell.not_applicable
    ]


def failures(table: Table) -> list[str]:
    """One line a failed run: where, which seeds, why, and its log."""
    lines = []
    for cell in table:
        for gap in cell.failed:
            log = f" (log: {gap.log})" if gap.log else ""
            lines.append(f"{cell.row}, {cell.column.title}, {describe(gap)}: {gap.reason or 'no reason known'}{log}")
    return lines


def _spread(table: Table) -> str:
    if all(cell.std is None for cell in table):
        return "Each number is of a single run (n = 1 in brackets): its spread over seeds is unknown."
    over = over_which(table)
    return f"{_STD}; the runs differ in their {over}." if over else f"{_STD}, with the seeds in which the runs differ."
