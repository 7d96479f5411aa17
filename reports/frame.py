"""Records and tables as pandas frames, for those who go on computing. Full precision, one fact a column."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from reports.collate import Table
from reports.columns import describe
from reports.record import Record

RECORD_COLUMNS = (
    "backbone",
    "arch",
    "protocol",
    "modified",
    "overrides",
    "task",
    "dataset",
    "sample_data",
    "pretrain_seed",
    "trial_seed",
    "metric",
    "headline",
    "value",
    "unit",
    "higher_is_better",
    "n",
    "backbone_fingerprint",
    "dataset_fingerprint",
    "receipt_framework",
    "receipt_live",
    "cell_id",
    "device",
    "started",
    "wall_seconds",
    "commit",
    "dirty",
    "command",
    "notes",
)


def record_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One line for each metric of each record, in the order given."""
    lines = [
        {
            "backbone": record.backbone.name,
            "arch": record.backbone.arch,
            "protocol": record.protocol.id,
            "modified": record.protocol.modified,
            "overrides": "; ".join(record.protocol.overrides),
            "task": record.protocol.task,
            "dataset": record.dataset.name,
            "sample_data": record.dataset.sample,
            "pretrain_seed": record.pretrain_seed,
            "trial_seed": record.trial_seed,
            "metric": metric.name,
            "headline": metric.name == record.protocol.headline,
            "value": metric.value,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "n": metric.n,
            "backbone_fingerprint": record.backbone.fingerprint,
            "dataset_fingerprint": record.dataset.fingerprint,
            "receipt_framework": record.receipt.framework,
            "receipt_live": record.receipt.live,
            "cell_id": record.cell_id,
            "device": record.provenance.device,
            "started": record.provenance.started,
            "wall_seconds": record.provenance.wall_seconds,
            "commit": record.provenance.commit,
            "dirty": record.provenance.dirty,
            "command": record.provenance.command,
            "notes": "; ".join(record.notes),
        }
        for record in records
        for metric in record.metrics
    ]
    frame = pd.DataFrame(lines, columns=list(RECORD_COLUMNS))
    # A missing seed must not turn the others into floats.
    return frame.astype({"pretrain_seed": "Int64", "dirty": "boolean"})


def cell_frame(table: Table) -> pd.DataFrame:
    """One line for each cell of the table, row by row; a cell without a number has a state that says why."""
    lines: list[dict[str, Any]] = []
    for cell in table:
        column = cell.column
        lines.append(
            {
                "backbone": cell.row,
                "column": column.name,
                "protocol": column.protocol_id,
                "modified": column.modified,
                "overrides": "; ".join(column.overrides),
                "dataset": column.dataset.name if column.dataset else "",
                "sample_data": column.sample,
                "metric": column.protocol.headline if column.protocol else "",
                "unit": column.unit,
                "higher_is_better": column.higher_is_better if column.protocol else None,
                "mean": cell.mean,
                "std": cell.std,
                "n": cell.n,
                "seeds_over": cell.over,
                "best": cell.best,
                "baseline": table.baseline or "",
                "delta": cell.delta,
                "state": cell.state,
                "seeds_failed": len(cell.failed),
                "seeds_missing": len(cell.missing),
                "reason": "; ".join(f"{describe(gap)}: {gap.reason}" for gap in (*cell.failed, *cell.not_applicable)),
                "backbone_fingerprints": " ".join(
                    dict.fromkeys(record.backbone.fingerprint for record in cell.records)
                ),
                "dataset_fingerprint": column.dataset.fingerprint if column.dataset else "",
                "cell_ids": " ".join(record.cell_id for record in cell.records),
                "values": json.dumps(cell.numbers),
            }
        )
    return pd.DataFrame(lines).astype({"higher_is_better": "boolean", "mean": float, "std": float, "delta": float})


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV: floats in the shortest form that reads back bit for bit, lines ended by a line feed."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text
