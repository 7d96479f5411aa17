"""From a run's folder to its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports.collate import Table, collate
from reports.errors import ReportError
from reports.files import write_whole
from reports.frame import cell_frame, record_frame, to_csv
from reports.html import page
from reports.store import read_plan, read_records
from reports.tables import markdown


@dataclass(frozen=True)
class Report:
    """A table and the files that show it."""

    table: Table
    html: Path
    markdown: Path
    csv: Path
    """One line a cell of the table."""
    records: Path
    """One line a metric of each record."""


def read_table(run: Path, baseline: str | None = None) -> Table:
    """The table of a run's folder: `results/*.json`, and `plan.json` where there is one.

    Raises:
        ReportError: if the folder does not exist, holds no record, or holds one that cannot be believed.
    """
    if not run.is_dir():
        raise ReportError(
            expected="the folder of a run", found="none", where=run, cure="make one with: moco-transfer run SUITE"
        )
    plan = read_plan(run / "plan.json")
    results = run / "results"
    records = read_records(results) if results.is_dir() else ()
    if not records:
        failed = [cell for cell in plan.cells if cell.state == "failed"] if plan else []
        first = f" ({len(failed)} cells failed, the first: {failed[0].reason})" if failed else ""
        raise ReportError(
            expected="at least one record (results/*.json)",
            found=f"none{first}",
            where=run,
            cure="finish a cell with: moco-transfer run SUITE",
        )
    return collate(records, plan, baseline, name=run.resolve().name)


def write_report(run: Path, baseline: str | None = None) -> Report:
    """Write `report/{index.html,table.md,table.csv,records.csv}` into a run's folder; an older report is replaced.

    The same records and plan give the same bytes.

    Args:
        run: the folder, as `runs/NAME`.
        baseline: the row that deltas are taken to; the plan's where None.

    Raises:
        ReportError: as `read_table`, or for a baseline that is no row.
    """
    table = read_table(run, baseline)
    folder = run / "report"
    report = Report(table, folder / "index.html", folder / "table.md", folder / "table.csv", folder / "records.csv")
    content = {
        report.html: page(table),
        report.markdown: markdown(table),
        report.csv: to_csv(cell_frame(table)),
        report.records: to_csv(record_frame(table.records)),
    }
    folder.mkdir(exist_ok=True)
    for path, text in content.items():
        write_whole(path, text.encode(), overwrite=True)
    return report
