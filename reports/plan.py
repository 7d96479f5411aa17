"""`Plan`: what a run was meant to hold, so that a table can show what is missing or failed, and why."""

from __future__ import annotations

from typing import Literal

from reports.record import Frozen


class PlannedCell(Frozen):
    """One cell of the matrix, done or not."""

    row: str
    """Name of the backbone."""
    protocol: str
    """Id of the protocol."""
    overrides: tuple[str, ...] = ()
    """Of its settings: together with the id and the data they are the column."""
    data: str = ""
    """The suite's name of the data set, equal to the `dataset.name` of its record; empty where it is not known."""
    pretrain_seed: int | None
    trial_seed: int
    state: Literal["done", "failed", "missing", "not applicable"]
    reason: str = ""
    """Why it failed, or why the protocol does not apply to this backbone, in one line."""
    log: str = ""
    """Path of its log, relative to the run's folder."""
    cell_id: str | None = None
    """Known once the backbone's fingerprint is."""


class Plan(Frozen):
    """The file `plan.json` of a run's folder."""

    schema_version: Literal[1] = 1
    name: str
    title: str = ""
    baseline: str | None = None
    """The row against which deltas are shown."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    """Ids of protocols, in the order of the table."""
    cells: tuple[PlannedCell, ...]
