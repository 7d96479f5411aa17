"""Runs a suite: what is missing, side by side, one process a step; what fails takes nothing else down."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from converters.errors import UserError
from converters.lock import exclusive
from evaluators.protocol import NotApplicable
from reports import store
from reports.errors import ReportError
from reports.plan import Plan, PlannedCell
from transfer.cells import Resolved, Status, Step
from transfer.launch import Running, start, stop
from transfer.overview import Overview
from transfer.suite import Suite

_log = logging.getLogger(__name__)

# Long steps first, so that the last one does not run alone.
_ORDER = {
    "data": 0,
    "pretraining": 1,
    "backbone": 2,
    "detection": 3,
    "segmentation": 4,
    "finetune": 4,
    "linear-multihead": 5,
    "linear": 5,
    "linear-cached": 6,
    "manyshot": 6,
    "svm": 6,
    "knn": 7,
    "fewshot": 7,
}


@dataclass
class RunState:
    """A suite under way."""

    suite: Suite
    folder: Path
    steps: list[Step]
    statuses: dict[Step, Status] = field(init=False)

    def __post_init__(self) -> None:
        self.statuses = {step: Status() for step in self.steps}

    def settle(self) -> None:
        """Move every pending step on as far as the files on disk allow."""
        for step in self.steps:
            status = self.statuses[step]
            if status.state != "pending":
                continue
            broken = [need for need in step.needs if self.statuses[need].state == "failed"]
            if broken:
                status.state, status.reason = "failed", f"needs {broken[0].title}, which failed"
            elif all(self.statuses[need].state == "done" for need in step.needs) and status.resolved is None:
                try:
                    status.resolved = step.resolved
                    status.already = _is_done(step)
                except NotApplicable as error:
                    status.state, status.reason = "not applicable", str(error)
                    continue
                except (UserError, ReportError, OSError) as error:
                    status.state, status.reason = "failed", str(error)
                    continue
                twin = self._twin(step, status.resolved)
                if twin is not None:
                    status.state = "failed"
                    status.reason = f"the same weights as {twin.title}: a second row for them says nothing"
                elif status.already:
                    status.state = "done"

    def ready(self) -> list[Step]:
        """Steps that can start now, in the order in which they should."""
        steps = [step for step, status in self.statuses.items() if status.state == "pending" and status.resolved]
        return sorted(steps, key=lambda step: _ORDER[step.protocol.task if step.protocol else step.kind])

    def unfinished(self) -> bool:
        """Whether any step is pending or running."""
        return any(status.state in ("pending", "running") for status in self.statuses.values())

    def _twin(self, step: Step, resolved: Resolved) -> Step | None:
        for other, status in self.statuses.items():
            if other is not step and status.resolved is not None and status.resolved.output == resolved.output:
                return other
        return None

    def plan(self) -> Plan:
        """What the report must know beside the records."""
        cells = []
        for step, status in self.statuses.items():
            if step.protocol is None:
                continue
            state = "missing" if status.state in ("pending", "running") else status.state
            log = "" if status.resolved is None else f"cells/{status.resolved.folder.name}/log.txt"
            cells.append(
                PlannedCell(
                    row=step.row,
                    protocol=step.protocol.id,
                    overrides=step.protocol.overrides,
                    data=step.data_name,
                    pretrain_seed=step.pretrain_seed,
                    trial_seed=step.trial_seed,
                    state=state,
                    reason=status.reason,
                    log=log,
                    cell_id=status.resolved.id if status.resolved else None,
                )
            )
        return Plan(
            name=self.suite.name,
            title=self.suite.title,
            baseline=self.suite.baseline,
            rows=tuple(self.suite.backbones),
            columns=tuple(column.protocol for column in self.suite.protocols),
            cells=tuple(cells),
        )


def execute(state: RunState, jobs: int) -> bool:
    """Do every step of the suite that is not done, `jobs` side by side.

    Returns:
        Whether all steps are done, but for those that are not applicable.
    """
    running: dict[Step, Running] = {}
    with exclusive(state.folder, "run"), Overview(state.statuses, running) as overview:
        try:
            while True:
                state.settle()
                for step in state.ready()[: jobs - len(running)]:
                    slot = min(set(range(jobs)) - {one.slot for one in running.values()})
                    resolved = state.statuses[step].resolved
                    assert resolved is not None, "ready() gives resolved steps only"
                    running[step] = start(resolved, slot, jobs)
                    state.statuses[step].state = "running"
                    overview.started(step)
                write_plan(state)
                if not running and not state.unfinished():
                    break
                while not (finished := [step for step, one in running.items() if one.process.poll() is not None]):
                    overview.tick()
                    time.sleep(0.2)
                for step in finished:
                    _finish(state.statuses[step], running.pop(step))
                    overview.finished(step)
        finally:
            stop(list(running.values()))
            write_plan(state)
    return all(status.state in ("done", "not applicable") for status in state.statuses.values())


def _finish(status: Status, one: Running) -> None:
    status.seconds = time.monotonic() - one.started
    if one.process.returncode == 0 and one.resolved.output.exists():
        status.state = "done"
    else:
        status.state, status.reason = "failed", one.reason()


def _is_done(step: Step) -> bool:
    """Whether the step's output is there; a record must also be readable and hold its proof."""
    output = step.resolved.output
    if output.exists() and step.kind == "evaluation":
        store.read_record(output)
    return output.exists()


def write_plan(state: RunState) -> None:
    """Write `plan.json` into the run's folder, atomically.

    Where that fails, as on a full disk, the steps under way must not be stopped for it: the next try may succeed.
    """
    try:
        store.write_plan(state.plan(), state.folder / "plan.json")
    except OSError as error:
        _log.warning("%s: the plan could not be written (%s)", state.folder, error.strerror)
