"""Which records may share a column: those made by the same protocol, with the same settings, on the same data."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reports.errors import ReportError
from reports.numbers import short
from reports.plan import Plan, PlannedCell
from reports.record import DatasetCard, MetricValue, ProtocolCard, Record

_TASKS = ("knn", "linear", "linear-multihead", "linear-cached", "manyshot", "detection", "segmentation")


_Wanted = tuple[str, tuple[str, ...], str]
"""Of a planned cell: protocol, overrides, name of the data set."""


class ColumnKey(NamedTuple):
    """What two records must have in common for their numbers to stand below each other."""

    protocol: str
    overrides: tuple[str, ...]
    settings: str = ""
    """As JSON; guards against a protocol that was changed without a new version."""
    data: str = ""
    """Fingerprint of the data set."""
    planned_data: str = ""
    """Name of the data set, where nothing but the plan tells of the column yet."""


@dataclass(frozen=True)
class Column:
    """A column of the table: the headline metric of a protocol."""

    name: str
    """Unique in the table: the protocol's id, with its overrides and the data where they tell it apart."""
    title: str
    """The column head, unique in the table."""
    protocol_id: str
    overrides: tuple[str, ...]
    protocol: ProtocolCard | None
    """None for a planned column without any record."""
    dataset: DatasetCard | None
    unit: str = ""
    higher_is_better: bool = True

    @property
    def modified(self) -> bool:
        """True where a setting differs from the frozen protocol."""
        return bool(self.overrides)

    @property
    def sample(self) -> bool:
        """True where the numbers were made on generated sample data."""
        return self.dataset is not None and self.dataset.sample

    @property
    def arrow(self) -> str:
        """The direction in which numbers get better."""
        return "" if self.protocol is None else "↑" if self.higher_is_better else "↓"

    @property
    def head(self) -> str:
        """Title, unit and direction in one line."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit} {self.arrow}".rstrip()


@dataclass(frozen=True)
class Columns:
    """The columns in their order, and where each record and each planned cell belongs."""

    ordered: tuple[Column, ...]
    of_record: dict[str, str]
    """Cell id -> name of the column."""
    of_planned: dict[int, str]
    """Position in the plan -> name of the column."""
    warnings: tuple[str, ...]


def headline(record: Record) -> MetricValue:
    """The metric that the table shows."""
    return next(metric for metric in record.metrics if metric.name == record.protocol.headline)


def arrange(records: Sequence[Record], plan: Plan | None) -> Columns:
    """Sort records and planned cells into columns.

    Columns follow the plan's order, then that of the tasks; an unmodified protocol comes before its modified forms.
    Records that differ in data or settings under one protocol stand in columns of their own, and a warning says so.

    Raises:
        ReportError: if the records of one column disagree on the unit or the direction of their metric.
    """
    members: dict[ColumnKey, list[Record]] = defaultdict(list)
    for record in records:
        members[_key(record)].append(record)
    gaps = plan.cells if plan else ()
    planned = [(cell.protocol, tuple(sorted(cell.overrides)), cell.data) for cell in gaps]
    named = {protocol for protocol, *_ in planned}
    bare = [(protocol, (), "") for protocol in (plan.columns if plan else ()) if protocol not in named]
    fitting: dict[_Wanted, list[ColumnKey]] = {}
    for wanted in dict.fromkeys([*planned, *bare]):
        fitting[wanted] = [key for key in members if _fits(key, members[key], wanted)]
        if not fitting[wanted]:
            protocol, overrides, data = wanted
            fitting[wanted] = [ColumnKey(protocol, overrides, planned_data=data)]
            members[fitting[wanted][0]] = []

    order = {protocol: place for place, protocol in enumerate(plan.columns)} if plan else {}
    keys = sorted(members, key=lambda key: (order.get(key.protocol, len(order)), _rank(key, members[key])))
    names = _names(keys, members)
    titles = _titles(keys, members, names)
    columns = tuple(_column(key, members[key], names[key], titles[key]) for key in keys)
    of_record = {record.cell_id: names[key] for key in keys for record in members[key]}
    first = {wanted: names[min(found, key=keys.index)] for wanted, found in fitting.items()}
    of_planned = {
        place: of_record.get(cell.cell_id or "", first[wanted])
        for place, (cell, wanted) in enumerate(zip(gaps, planned, strict=True))
    }
    return Columns(columns, of_record, of_planned, tuple(_warnings(keys, members, names)))


def _fits(key: ColumnKey, members: Sequence[Record], wanted: _Wanted) -> bool:
    """Whether a column can hold a planned cell; a plan that names no data set leaves the choice open."""
    protocol, overrides, data = wanted
    names = {record.dataset.name for record in members} or {key.planned_data}
    return (key.protocol, key.overrides) == (protocol, overrides) and (not data or data in names)


def describe(cell: PlannedCell | Record) -> str:
    """The seeds of a cell in words."""
    trial = f"trial seed {cell.trial_seed}"
    return trial if cell.pretrain_seed is None else f"pretrain seed {cell.pretrain_seed}, {trial}"


def _key(record: Record) -> ColumnKey:
    protocol = record.protocol
    settings = json.dumps([protocol.settings, protocol.headline, protocol.definition], sort_keys=True)
    return ColumnKey(protocol.id, tuple(sorted(protocol.overrides)), settings, record.dataset.fingerprint)


def _rank(key: ColumnKey, members: Sequence[Record]) -> tuple[int, str, tuple[str, ...], int, str, str, str]:
    task = members[0].protocol.task if members else key.protocol.partition("-")[0]
    place = _TASKS.index(task) if task in _TASKS else len(_TASKS)
    return place, key.protocol, key.overrides, -len(members), key.data, key.settings, key.planned_data


def _names(keys: Iterable[ColumnKey], members: dict[ColumnKey, list[Record]]) -> dict[ColumnKey, str]:
    """Each key's name; data and settings are named only where they are what tells two columns apart."""
    keys = list(keys)
    twins = Counter((key.protocol, key.overrides) for key in keys)
    names: dict[ColumnKey, str] = {}
    for key in keys:
        name = key.protocol
        if key.overrides:
            name += f" modified: {', '.join(key.overrides)}"
        if twins[key.protocol, key.overrides] > 1:
            name += f" on {_data(key, members[key])}"
        # Same protocol, same overrides, same data: only the settings are left.
        same = sorted(other.settings for other in keys if other._replace(settings=key.settings) == key)
        if len(same) > 1:
            name += f", settings {same.index(key.settings) + 1} of {len(same)}"
        names[key] = name
    return names


def _data(key: ColumnKey, members: Sequence[Record]) -> str:
    """The data of a column in words; its plan may name none."""
    return f"{members[0].dataset.name} {short(key.data)}" if members else key.planned_data or "other data"


def _titles(
    keys: Sequence[ColumnKey], members: dict[ColumnKey, list[Record]], names: dict[ColumnKey, str]
) -> dict[ColumnKey, str]:
    """The protocol's own title where it is unique; else the title with what tells it apart."""
    known = {key.protocol: members[key][0].protocol.title for key in reversed(keys) if members[key]}
    plain = {
        key: members[key][0].protocol.title if members[key] else known.get(key.protocol, key.protocol) for key in keys
    }
    protocols = {title: {key.protocol for key in keys if plain[key] == title} for title in plain.values()}
    titles: dict[ColumnKey, str] = {}
    for key, title in plain.items():
        # What follows the id in the name: overrides, data; the id itself only where two protocols share the title.
        apart = names[key] if len(protocols[title]) > 1 else names[key].removeprefix(key.protocol).strip()
        titles[key] = f"{title}, {apart}" if apart and apart != title else title
    return titles


def _column(key: ColumnKey, members: Sequence[Record], name: str, title: str) -> Column:
    if not members:
        return Column(name, title, key.protocol, key.overrides, None, None)
    meanings = {(metric.unit, metric.higher_is_better) for metric in map(headline, members)}
    if len(meanings) > 1:
        raise ReportError(
            expected="one unit and direction of the metric in all records",
            found="; ".join(f"{unit!r}, higher is better: {up}" for unit, up in sorted(meanings)),
            where=f"column {name}",
            cure="evaluate the older cells again",
        )
    unit, higher_is_better = meanings.pop()
    first = members[0]
    return Column(name, title, key.protocol, key.overrides, first.protocol, first.dataset, unit, higher_is_better)


def _warnings(
    keys: Iterable[ColumnKey], members: dict[ColumnKey, list[Record]], names: dict[ColumnKey, str]
) -> Iterable[str]:
    twins: dict[tuple[str, tuple[str, ...]], list[ColumnKey]] = defaultdict(list)
    for key in keys:
        if members[key]:
            twins[key.protocol, key.overrides].append(key)
    for (protocol, _), group in twins.items():
        if len({key.data for key in group}) > 1:
            data = sorted({_data(key, members[key]) for key in group})
            yield (
                f"{protocol}: the records were made on different data ({', '.join(data)}). They stand in columns of "
                "their own and are not to be compared."
            )
        if len({key.settings for key in group}) > 1:
            yield (
                f"{protocol}: the records were made with different settings under one id. They stand in columns of "
                f"their own: {'; '.join(names[key] for key in group)}."
            )
    for key in keys:
        if key.overrides:
            yield f"{names[key]}: a modified protocol, not comparable with published numbers."
