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


def choices(device: torch.device, search: Literal["exact", "fp16", "ivf"], probes: int) -> Iterator[Choice]:
    """In the order of preference. The last is FAISS on the CPU, which works everywhere.

    Args:
        device: a GPU without a number stands for all of them.
        search: as in `evaluators.settings.knn.KnnSettings`; an inverted file is searched on the CPU alone.
        probes: likewise.
    """
    if device.type == "cuda" and search != "ivf":
        gpus = () if device.index is None else (device.index,)
        yield Choice(FaissGpu(gpus, half=search == "fp16"), lambda: gpu_probe.fault(gpus))
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
