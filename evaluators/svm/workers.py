"""Many small fits, shared by the processes of the group and by worker processes of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TypeVar

from joblib import Parallel, delayed

from converters import distributed
from converters.progress import Progress

_ALONE = 4_000_000
"""Below this many feature values a fit is over before a worker process has started."""
_COPIES = 32
"""Bytes a worker needs for a feature value: liblinear's own sparse copy (16), the fold's rows and room to move."""

T = TypeVar("T")


def shared(tasks: Sequence[tuple[Callable[..., T], dict[str, object]]], *, values: int, label: str) -> list[T]:
    """The results of all tasks in their order, computed by all processes of the group and by workers of each.

    Args:
        tasks: a function that workers can import, and its arguments.
        values: feature values of a task's matrix, which decide how many workers the memory holds.
        label: of the progress display.
    """
    rank, size = distributed.rank(), distributed.size()
    mine = tasks[rank::size]

    def compute() -> list[T]:
        results: list[T] = []
        if not mine:
            return results
        with Progress(label, len(mine), unit="fit", stream=None if rank == 0 else StringIO()) as progress:
            # Processes, not threads: liblinear has one generator of random numbers for all threads of a process.
            parallel = Parallel(n_jobs=_workers(len(mine), values, size), return_as="generator")
            for result in parallel(delayed(function)(**arguments) for function, arguments in mine):
                results.append(result)
                progress.step()
        return results

    everywhere = distributed.gather_values(distributed.together(compute))
    return [everywhere[index % size][index // size] for index in range(len(tasks))]


def _workers(tasks: int, values: int, processes: int) -> int:
    """How many worker processes: as many as there are cores and memory for, and none where they would not pay."""
    if values < _ALONE:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    fitting = free // (_COPIES * values * processes) if free else cores
    return max(1, min(cores // processes, fitting, tasks))
