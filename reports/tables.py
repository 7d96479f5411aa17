"""The table as Markdown, and as text for a terminal."""

from __future__ import annotations

import io
import re

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from reports.collate import Cell, Table
from reports.columns import Column
from reports.legend import count, failures, gaps, inapplicable, legend, notes, sample_note
from reports.numbers import short, shown, signed

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown page: title, table, legend, columns, failures."""
    lines = [f"# {_escape(table.title)}", ""]
    if note := sample_note(table):
        lines += [f"> **{_escape(note)}**", ""]
    heads = ["Backbone", "Weights", *(_escape(_marked(column)) for column in table.columns)]
    lines += [_line(heads), _line([":---", ":---", *("---:" for _ in table.columns)])]
    for row in table.rows:
        weights = " ".join(f"`{digits}`" if digits[0] != "+" else digits for digits in _weights(table, row))
        cells = [_markdown_cell(table.cell(row, column), table) for column in table.columns]
        lines.append(_line([_escape(row) + _baseline_mark(table, row), weights, *cells]))
    lines += ["", *(f"- {_escape(line)}" for line in legend(table, best="bold"))]
    lines += _section("To know before comparing", table.warnings)
    lines += _section("Notes", notes(table))
    lines += _section("Not applicable", inapplicable(table))
    lines += _section("Failed", failures(table))
    if table.columns:
        lines += ["", "**Columns**", "", *(f"- {_describe(column)}" for column in table.columns)]
    return "\n".join(lines) + "\n"


def terminal(table: Table, *, colour: bool = False) -> str:
    """The table as text at its natural width.

    Args:
        table: the table.
        colour: mark the best with ANSI codes as well.
    """
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.add_column("Backbone", min_width=8, max_width=44)
    grid.add_column("Weights", no_wrap=True, style="dim")
    for column in table.columns:
        head = Text(_clean(column.head))
        if column.sample:
            head.append("\nsample data")
        grid.add_column(head, justify="right", min_width=11, max_width=34)
    for row in table.rows:
        name = Text(_clean(row) + _baseline_mark(table, row))
        weights = Text(" ".join(_weights(table, row, limit=1)))
        grid.add_row(name, weights, *(_terminal_cell(table.cell(row, column), table) for column in table.columns))
    out = io.StringIO()
    # As wide as the content: a table that is cut to a guessed width loses numbers.
    console = Console(
        file=out, width=10_000, force_terminal=colour, no_color=not colour, highlight=False, force_jupyter=False
    )
    console.print(Text(_clean(table.title), style="bold"))
    console.print()
    console.print(grid)
    console.print()
    lines = [*legend(table, best="marked *"), *(f"! {line}" for line in table.warnings)]
    lines += [f"note: {line}" for line in notes(table)]
    lines += [f"not applicable: {line}" for line in inapplicable(table)]
    lines += [f"failed: {line}" for line in failures(table)]
    if note := sample_note(table):
        lines.append(note)
    for line in lines:
        console.print(Text(_clean(line)))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _markdown_cell(cell: Cell, table: Table) -> str:
    parts = []
    if cell.mean is not None:
        number = _number(cell)
        parts = [f"**{number}**" if cell.best else number, _escape(count(cell, table))]
        if cell.delta is not None:
            parts.append(signed(cell.delta, cell.column.unit))
    if gap := gaps(cell):
        parts.append(f"*{gap}*")
    return " ".join(parts)


def _terminal_cell(cell: Cell, table: Table) -> Text:
    text = Text()
    if cell.mean is not None:
        text.append(f"{'* ' if cell.best else ''}{_number(cell)} {count(cell, table)}", "bold" if cell.best else "")
        if cell.delta is not None:
            text.append(f"\n{signed(cell.delta, cell.column.unit)}")
    if gap := gaps(cell):
        text.append(f"\n{gap}" if text else gap)
    return text


def _number(cell: Cell) -> str:
    assert cell.mean is not None
    unit = cell.column.unit
    return shown(cell.mean, unit) + (f" ± {shown(cell.std, unit)}" if cell.std is not None else "")


def _weights(table: Table, row: str, limit: int = 3) -> list[str]:
    """The short fingerprints of a row, and how many more there are."""
    found = table.weights(row)
    more = [f"+{len(found) - limit}"] if len(found) > limit else []
    return [short(weights) for weights in found[:limit]] + more


def _baseline_mark(table: Table, row: str) -> str:
    return " (baseline)" if row == table.baseline else ""


def _marked(column: Column) -> str:
    return f"{column.head}, sample data" if column.sample else column.head


def _describe(column: Column) -> str:
    """A column in a line of Markdown: protocol, metric, data, source."""
    card, data = column.protocol, column.dataset
    text = f"{_escape(column.title)}: `{_clean(column.protocol_id).replace('`', '')}`"
    if column.modified:
        text += f", *modified* ({_escape(', '.join(column.overrides))})"
    if card is None or data is None:
        return f"{text}. No result yet."
    sample = ", sample data" if data.sample else ""
    text += f". {_escape(card.definition)} Data: {_escape(data.name)} (`{short(data.fingerprint)}`{sample})."
    return f"{text} Protocol: {_escape(card.citation)}"


def _section(title: str, lines: list[str] | tuple[str, ...]) -> list[str]:
    return ["", f"**{title}**", "", *(f"- {_escape(line)}" for line in lines)] if lines else []


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: names come from files."""
    return _MARKDOWN.sub(r"\\\1", _clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _clean(text: str) -> str:
    """Without line breaks and control codes, which would break the table or steer the terminal."""
    return _CONTROL.sub(" ", text)
