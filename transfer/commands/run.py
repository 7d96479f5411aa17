"""`moco-transfer run`: every missing cell of a suite, then the table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time only once the arguments are known
    from transfer.run import RunState

HELP = "run a suite: pretrain, convert and evaluate what is missing, then report"
EXAMPLE = "moco-transfer run quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("suite", help="a suite file, or the name of a built-in suite (quickstart)")
    parser.add_argument("-o", "--out", type=Path, help="the run's folder (default: runs/NAME)")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="where a data set lies")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the suite")
    parser.add_argument("--jobs", type=int, help="steps side by side (default: the GPUs, or else up to 4 of the cores)")
    parser.add_argument("--dry-run", action="store_true", help="list the steps and do nothing")


def run(args: argparse.Namespace) -> int:
    """Do what is missing and report.

    Returns:
        0 when every cell is done, 1 when one failed.

    Raises:
        UserError: for wrong input.
    """
    from converters.errors import UserError
    from transfer.cells import steps
    from transfer.launch import cores, gpus
    from transfer.run import RunState, execute
    from transfer.suite import load_suite, locate_data

    suite = load_suite(args.suite, args.set)
    folder = args.out or Path("runs") / suite.name
    state = RunState(suite, folder, steps(suite, locate_data(suite, args.data, folder), folder))
    if args.dry_run:
        return _dry_run(state)
    jobs = args.jobs if args.jobs is not None else len(gpus()) or min(cores(), 4)
    if jobs < 1:
        raise UserError(expected="at least one job", found=str(jobs), where="--jobs")
    complete = execute(state, jobs)

    from reports.errors import ReportError
    from transfer.commands.report import show

    # The report tells of failed cells; what they needed and did not get is told here.
    for step, status in state.statuses.items():
        if status.state == "failed" and step.kind != "evaluation":
            print(f"failed: {step.title}: {status.reason}")
    try:
        show(folder, suite.baseline)
    except ReportError as error:
        if complete:
            raise
        print(f"no table: {error}")
    return 0 if complete else 1


def _dry_run(state: RunState) -> int:
    import shlex

    state.settle()
    for step, status in state.statuses.items():
        if status.resolved is not None:
            word = "done" if status.state == "done" else "to do"
            told = shlex.join(["moco-transfer", *status.resolved.arguments])
        elif status.state in ("failed", "not applicable"):
            word, told = status.state, status.reason
        else:
            word = "pending"
            told = "waits for " + ", ".join(need.title for need in step.needs)
        print(f"{word:8} {step.title}\n         {told}")
    return int(any(status.state == "failed" for status in state.statuses.values()))
