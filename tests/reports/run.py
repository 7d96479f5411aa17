"""A run's folder as the runner leaves it: three rows, four tasks, some seeds failed or missing; names meant to hurt."""

from __future__ import annotations

from pathlib import Path

from reports.record import MetricValue
from reports.store import write_plan, write_record
from tests.reports.made import plan, planned, record

SCRIPT = "<script>alert(1)</script>"
PIPE = "a|b *c* `d` [e](f) \\ _g_ &amp; ~h~ $i$"
LOST = 'killed <b>"now"</b> | by signal 9'


def make_run(run: Path, *, sample: bool = True) -> Path:
    """Write `results/` and `plan.json`; the detection of one row failed, one segmentation seed is missing."""
    cells = []
    for shift, row in enumerate(("Random init", SCRIPT, PIPE)):
        for task, base in {"knn": 48.0, "linear": 39.0, "detection": 6.0, "segmentation": 15.0}.items():
            for seed in range(2):
                made = record(
                    row,
                    f"{task}-quick@1",
                    base + 7 * shift + seed / 3,
                    pretrain_seed=seed,
                    sample=sample,
                    data=f"data of {task}",
                    others=(MetricValue(name="AP75", value=1 / 3, unit="%", higher_is_better=True, n=7),),
                    notes=("SyncBN became BN: <no> GPU",) if task == "detection" else (),
                )
                if (row, task) == (SCRIPT, "detection"):
                    cells.append(planned(made, "failed", LOST, "cells/x/log.txt"))
                elif (row, task, seed) == (PIPE, "segmentation", 1):
                    cells.append(planned(made, "missing"))
                else:
                    cells.append(planned(made))
                    write_record(made, run / "results")
    write_plan(plan(*cells, baseline="Random init"), run / "plan.json")
    return run
