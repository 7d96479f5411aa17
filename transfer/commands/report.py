"""`moco-transfer report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "collate the results of a run into a comparison table: terminal, Markdown, CSV and a self-contained HTML page"
EXAMPLE = "moco-transfer report runs/quickstart --baseline 'Random init'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run, as runs/NAME")
    parser.add_argument(
        "--baseline", metavar="ROW", help="the row that differences are taken to (default: the suite's)"
    )
    parser.add_argument(
        "--format", choices=("text", "md", "csv"), default="text", help="of the table that is printed (default: text)"
    )


def run(args: argparse.Namespace) -> int:
    """Write `RUN/report/` and print the table."""
    if args.format == "text":
        show(args.run_folder, args.baseline)
    else:
        from reports.write import write_report

        report = write_report(args.run_folder, args.baseline)
        # The table alone goes to the output, so that it can be sent into a file.
        path = report.markdown if args.format == "md" else report.csv
        sys.stdout.write(path.read_text(encoding="utf-8"))
        print(report.html, file=sys.stderr)
    return 0


def show(folder: Path, baseline: str | None) -> None:
    """Write the report of a run's folder, and print the table and the page's path.

    Raises:
        ReportError: if the folder holds nothing to report, or something that cannot be trusted.
    """
    from reports.tables import terminal
    from reports.write import write_report

    report = write_report(folder, baseline)
    print(terminal(report.table, colour=sys.stdout.isatty()))
    print(report.html)
