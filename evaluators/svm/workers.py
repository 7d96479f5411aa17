"""Many small fits, shared by the processes of the group and by worker processes of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TypeVar

from joblib import Parallel, delayed

from converters import distributed
from converters.progress import Progress
from evaluators.svm.kept import Kept

_ALONE = 4_000_000
"""Below this many feature values a fit is over before a worker process has started."""
_COPIES = 32
"""Bytes a worker needs for a feature value: liblinear's own sparse copy (16), the fold's rows and room to move."""

T = TypeVar("T")


def shared(
    tasks: Sequence[tuple[Callable[..., T], dict[str, object]]],
    *,
    values: int,
    label: str,
    kept: Kept[T] | None = None,
) -> list[T]:
    """The results of all tasks in their order, computed by all processes of the group and by workers of each.

    Args:
        tasks: a function that workers can import, and its arguments.
        values: feature values of a task's matrix, which decide how many workers the memory holds.
        label: of the progress display.
        kept: where each result is kept as it comes; what is there already is not computed again.

    Raises:
        UserError, CheckFailed: in every process, where one of them cannot write.
    """
    rank, size = distributed.rank(), distributed.size()
    done = {} if kept is None else kept.load()
    mine = [index for index in range(len(tasks)) if index not in done][rank::size]

    def compute() -> dict[int, T]:
        results: dict[int, T] = {}
        if not mine:
            return results
        with Progress(label, len(mine), unit="fit", stream=None if rank == 0 else StringIO()) as progress:
            # Processes, not threads: liblinear has one generator of random numbers for all threads of a process.
            parallel = Parallel(n_jobs=_workers(len(mine), values, size), return_as="generator")
            found = parallel(delayed(tasks[index][0])(**tasks[index][1]) for index in mine)
            for index, result in zip(mine, found, strict=True):
                results[index] = result
                if kept is not None:
                    kept.add(index, result)
                progress.step()
        return results

    for found in distributed.gather_values(distributed.together(compute)):
        done |= found
    return [done[index] for index in range(len(tasks))]


def _workers(tasks: int, values: int, processes: int) -> int:
    """How many worker processes: as many as there are cores and memory for, and none where they would not pay."""
    if values < _ALONE:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    fitting = free // (_COPIES * values * processes) if free else cores
    return max(1, min(cores // processes, fitting, tasks))
