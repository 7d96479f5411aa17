from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from reports.errors import ReportError
from reports.store import read_records, write_plan
from reports.write import write_report
from tests.reports.made import plan, planned, record
from tests.reports.run import LOST, make_run

NAMES = {"index.html", "table.md", "table.csv", "records.csv"}


def content(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "report").iterdir()}


def test_a_report_is_four_files(tmp_path: Path) -> None:
    report = write_report(make_run(tmp_path / "quickstart"))
    assert set(content(tmp_path / "quickstart")) == NAMES
    assert report.html == tmp_path / "quickstart" / "report" / "index.html"
    assert all(path.is_file() for path in (report.html, report.markdown, report.csv, report.records))
    assert report.table.baseline == "Random init"


def test_the_same_records_give_the_same_bytes_in_another_process_and_place(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / place / "run") for place in ("here", "there"))
    program = (
        "import sys; from pathlib import Path; from reports.write import write_report; write_report(Path(sys.argv[1]))"
    )
    for run, seed in ((first, "1"), (second, "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "COLUMNS": "40" if seed == "1" else "200"}
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", program, str(run)], env=environment, cwd=root, check=True)
    assert content(first) == content(second)
    write_report(first)
    assert content(first) == content(second)


def test_a_report_is_replaced_and_leaves_the_records_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = read_records(run / "results")
    write_report(run)
    old = content(run)
    write_report(run, baseline="<script>alert(1)</script>")
    assert content(run) != old
    assert set(content(run)) == NAMES
    assert read_records(run / "results") == before


def test_a_folder_of_copied_records_needs_no_plan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "copied")
    (run / "plan.json").unlink()
    table = write_report(run).table
    assert table.title == "copied"
    assert table.baseline is None
    assert table.cells["<script>alert(1)</script>", "detection-quick@1"].state == "missing"


def test_a_run_must_exist_and_hold_a_record(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="expected the folder of a run, found none"):
        write_report(tmp_path / "absent")
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ReportError, match="expected at least one record"):
        write_report(run)
    write_plan(plan(planned(record(), "failed", LOST)), run / "plan.json")
    with pytest.raises(ReportError, match=r"1 cells? failed, the first: killed"):
        write_report(run)
    assert not (run / "report").exists()


def test_one_damaged_record_stops_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = next((run / "results").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ReportError, match=str(path)):
        write_report(run)
    assert not (run / "report").exists()


def test_the_page_s_parts_lie_inside_the_package() -> None:
    parts = {part.name for part in resources.files("reports").joinpath("page").iterdir()}
    assert {"page.html.jinja", "page.css", "page.js"} <= parts


def test_reports_load_no_torch_and_no_sibling() -> None:
    program = (
        "import sys, reports.write; "
        "print(sorted({'torch', 'converters', 'evaluators', 'pretrain', 'transfer'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
