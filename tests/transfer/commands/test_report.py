from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from tests.reports.run import SCRIPT, make_run
from transfer.__main__ import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "quickstart")


def test_report_prints_the_table_and_the_path_of_the_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert "48.2 ± 0.2 (2)" in out
    assert out.splitlines()[-1] == str(run / "report" / "index.html")
    assert (run / "report" / "index.html").is_file()


def test_a_format_prints_the_table_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert len(pd.read_csv(io.StringIO(captured.out))) == 12
    assert captured.err.strip() == str(run / "report" / "index.html")
    assert main(["report", str(run), "--format", "md"]) == 0
    assert capsys.readouterr().out == (run / "report" / "table.md").read_text(encoding="utf-8")


def test_the_baseline_can_be_chosen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--baseline", SCRIPT]) == 0
    assert "−7.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "absent: expected the folder of a run, found none"),
        (["."], "expected at least one record"),
        (["quickstart", "--baseline", "Random"], "did you mean 'Random init'?"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    run: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run.parent)
    assert main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("moco-transfer: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
