from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from reports.collate import Table, collate
from reports.frame import cell_frame, record_frame, to_csv
from reports.tables import markdown, terminal
from reports.write import read_table
from tests.reports.made import plan, planned, record
from tests.reports.run import LOST, PIPE, SCRIPT, make_run


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return read_table(make_run(tmp_path / "run"))


def parse(text: str) -> list[list[Token]]:
    """The cells of the Markdown table by an independent parser, row by row, as inline tokens."""
    rows: list[list[Token]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = (inside or token.type == "table_open") and token.type != "table_close"
        if token.type == "tr_open":
            rows.append([])
        elif inside and token.type == "inline":
            rows[-1].append(token)
    return rows


def plain(cell: Token) -> str:
    return "".join(child.content for child in cell.children)


def bold(cell: Token) -> bool:
    return any(child.type == "strong_open" for child in cell.children)


def test_markdown_is_one_table_with_every_cell(table: Table) -> None:
    head, *rows = parse(markdown(table))
    assert len(head) == 2 + 4
    assert [len(row) for row in rows] == [6, 6, 6]
    assert [plain(row[0]) for row in rows] == ["Random init (baseline)", SCRIPT, PIPE]


def test_markdown_shows_mean_std_n_delta_best_and_gaps(table: Table) -> None:
    _, base, script, pipe = parse(markdown(table))
    # Values are 48 and 48 1/3: the mean is 48.1667, the sample standard deviation 0.2357.
    assert plain(base[2]) == "48.2 ± 0.2 (2)"
    assert plain(script[2]) == "55.2 ± 0.2 (2) +7.0"
    assert plain(script[4]) == "failed"
    assert plain(pipe[5]) == "29.0 (1) +13.8 1 missing"
    assert [[bold(cell) for cell in row[2:]] for row in (base, script, pipe)] == [[False] * 4, [False] * 4, [True] * 4]


def test_nothing_from_a_record_becomes_markup(table: Table) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(table))
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {"text", "text_special", "code_inline", "strong_open", "strong_close", "em_open", "em_close"}
    assert "html_block" not in {token.type for token in tokens}
    assert any(LOST in plain(token) for token in tokens if token.children)


@pytest.mark.parametrize("form", [markdown, terminal])
def test_sample_data_is_labelled(tmp_path: Path, form: object) -> None:
    sample = form(read_table(make_run(tmp_path / "sample")))
    assert "SAMPLE DATA. All numbers were made on small generated sample data." in sample
    assert sample.count("sample data") >= 4
    real = form(read_table(make_run(tmp_path / "real", sample=False)))
    assert "sample data" not in real.lower()
    mixed = form(collate([record(sample=True, data="s"), record(protocol="linear-moco@1", title="Probe")]))
    assert "SAMPLE DATA. The numbers of knn were" in mixed


@pytest.mark.parametrize("form", [markdown, terminal])
def test_the_legend_says_what_the_spread_is(form: object) -> None:
    over_pretrain = [record("a", pretrain_seed=seed) for seed in range(2)]
    over_trial = [record("b", seed=seed, value=seed) for seed in range(2)]
    text = form(collate(over_pretrain))
    assert "sample standard deviation (divisor n − 1)" in text
    assert "the runs differ in their pretrain seeds" in text
    text = form(collate([*over_pretrain, *over_trial]))
    assert "(2 pretrain seeds)" in text
    assert "(2 trial seeds)" in text
    text = form(collate([record()]))
    assert "±" not in text
    assert "single run" in text


def test_lower_is_better_is_shown(tmp_path: Path) -> None:
    text = markdown(
        collate(
            [
                record("a", value=2, unit="", higher_is_better=False),
                record("b", value=1, unit="", higher_is_better=False),
            ]
        )
    )
    head, a, b = parse(text)
    assert plain(head[2]) == "knn ↓"
    assert (bold(a[2]), bold(b[2])) == (False, True)


def test_modified_protocols_are_marked_in_markdown() -> None:
    text = markdown(collate([record(), record(overrides=("k=[5]",), settings={"k": [5]})]))
    assert [plain(cell) for cell in parse(text)[0][2:]] == ["knn (%) ↑", "knn, modified: k=[5] (%) ↑"]


def test_terminal_shows_everything_and_no_control_codes() -> None:
    made = record("evil\x1b[2J\nname", value=60.0)
    text = terminal(collate([made], plan(planned(made), planned(record("b"), "failed", "a\x07b\x1b]0;x"))))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "evil [2J name" in text
    assert "60.0 (1)" in text
    assert "failed: b, knn, pretrain seed 0, trial seed 0: a b ]0;x" in text


def test_terminal_marks_the_best_and_gives_no_other_line_than_its_own(table: Table) -> None:
    text = terminal(table)
    assert text.count("* ") >= 4
    assert "* 62.2 ± 0.2 (2)" in text
    assert PIPE in text
    assert SCRIPT in text
    assert "\x1b" not in text
    assert "\x1b[1m" in terminal(table, colour=True)


def test_table_csv_reads_back_with_every_digit(table: Table) -> None:
    read = pd.read_csv(io.StringIO(to_csv(cell_frame(table))), dtype=str, keep_default_na=False)
    assert len(read) == 3 * 4
    for line, cell in zip(read.itertuples(), table, strict=True):
        assert (line.backbone, line.column, int(line.n), line.state) == (cell.row, cell.column.name, cell.n, cell.state)
        for found, expected in ((line.mean, cell.mean), (line.std, cell.std), (line.delta, cell.delta)):
            assert (float(found) if found else None) == expected
    assert [tuple(json.loads(text)) for text in read["values"]] == [cell.numbers for cell in table]
    assert set(read.sample_data) == {"True"}
    assert read.best.tolist().count("True") == 4
    failed = read[read.state == "failed"]
    assert failed.reason.str.contains(LOST, regex=False).all()
    assert failed.seeds_failed.tolist() == ["2"]


def test_records_csv_reads_back_with_every_digit(table: Table) -> None:
    read = pd.read_csv(io.StringIO(to_csv(record_frame(table.records))), dtype=str, keep_default_na=False)
    metrics = [(record, metric) for record in table.records for metric in record.metrics]
    assert len(read) == len(metrics) == 2 * 21
    for line, (one, metric) in zip(read.itertuples(), metrics, strict=True):
        assert (line.metric, line.unit, int(line.n)) == (metric.name, metric.unit, metric.n)
        assert float(line.value) == metric.value
        assert (line.backbone, line.cell_id) == (one.backbone.name, one.cell_id)
        assert (int(line.pretrain_seed), int(line.trial_seed)) == (one.pretrain_seed, one.trial_seed)
        assert line.backbone_fingerprint == line.receipt_live == one.backbone.fingerprint
        assert line.headline == str(metric.name == "score")
        assert line.command == one.provenance.command
        assert line.sample_data == "True"
