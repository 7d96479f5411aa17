"""Which engine searches: the fastest that works here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from converters.errors import CheckFailed
from evaluators.knn.engines import gpu_probe
from evaluators.knn.engines.cpu import FaissCpu
from evaluators.knn.engines.engine import Engine
from evaluators.knn.engines.gpu import FaissGpu
from evaluators.knn.engines.matmul import Matmul

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """An engine that may be tried."""

    engine: Engine
    fault: Callable[[], str | None] = lambda: None
    """Why it cannot be used, found before it is."""


def choices(
    device: torch.device, search: Literal["exact", "fp16", "ivf"], probes: int, *, width: int, processes: int
) -> Iterator[Choice]:
    """In the order of preference. The last is FAISS on the CPU, which works everywhere.

    Args:
        device: of this process. The first GPU, which a process has where nothing else was said, stands for all that it
            sees; but among several processes each has its own.
        search: as in `evaluators.settings.knn.KnnSettings`; an inverted file is searched on the CPU alone.
        probes: likewise.
        width: neighbours fetched at first.
        processes: how many search side by side.
    """
    if device.type == "cuda" and search != "ivf":
        number = device.index or 0
        gpus = () if processes == 1 and number == 0 else (number,)
        faiss = FaissGpu(gpus, half=search == "fp16")
        too_wide = (
            f"it finds {faiss.widest} neighbours at most, and {width} are wanted" if width > faiss.widest else None
        )
        yield Choice(faiss, lambda: too_wide or gpu_probe.fault(gpus))
        yield Choice(Matmul(device, half=search == "fp16"))
    yield Choice(FaissCpu(search, probes))


def first_that_works(among: Iterator[Choice], action: Callable[[Engine], T]) -> tuple[T, str]:
    """The result of `action` with the first engine that does not fail, and what the record says of it.

    Raises:
        CheckFailed: if none works, with the reasons.
    """
    reasons: list[str] = []
    for choice in among:
        reason = choice.fault()
        if reason is None:
            try:
                result = action(choice.engine)
            except RuntimeError as error:  # of FAISS and torch, memory of a GPU that is full among them
                reason = str(error).strip().partition("\n")[0][:200]
            else:
                return result, "; ".join([f"neighbours: {choice.engine.name}", *reasons])
        reasons.append(f"not {choice.engine.name}: {reason}")
    raise CheckFailed(f"no engine could search: {'; '.join(reasons)}")
