"""The table as one self-contained page: no script, style, font or picture from elsewhere. Each cell opens its proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from reports.collate import Table
from reports.columns import describe
from reports.legend import count, failures, gaps, inapplicable, legend, notes, sample_note
from reports.numbers import duration, short, shown, signed


def page(table: Table) -> str:
    """The HTML page. All text from records is escaped; the same records give the same bytes."""
    environment = Environment(
        loader=FunctionLoader(_part), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(duration=duration, flat=flat, short=short, words=words)
    environment.globals.update(count=count, describe=describe, gaps=gaps, shown=shown, signed=signed)
    return environment.get_template("page.html.jinja").render(
        table=table,
        style=Markup(_part("page.css")),  # noqa: S704 - our own file, no text from records
        script=Markup(_part("page.js")),  # noqa: S704 - likewise
        sample_note=sample_note(table),
        legend=legend(table, best="bold"),
        notes=notes(table),
        inapplicable=inapplicable(table),
        failures=failures(table),
        wall_seconds=sum(record.provenance.wall_seconds for record in table.records),
    )


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text, in the order of the record."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{name}.")
        else:
            pairs.append((name, words(value)))
    return pairs


def words(value: object) -> str:
    """A setting's value as a person writes it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value):
        return ", ".join(words(item) for item in value) or "none"
    return json.dumps(value, ensure_ascii=False)


def _part(name: str) -> str:
    return resources.files("reports").joinpath("page", name).read_text(encoding="utf-8")
