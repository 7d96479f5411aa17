"""What the steps measured, over all processes, read one step late so that the host never waits for the device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from converters import distributed


@dataclass(frozen=True)
class Reading:
    """A step's measurements: the same in every process, so that all decide alike."""

    step: int
    """From 1, since the beginning of the run."""
    loss: float
    """InfoNCE, nats: the mean over all images, as the two below."""
    top1: float
    """Percent."""
    top5: float
    stop: bool
    """Whether any process was asked to stop."""
    faults: int
    """Damaged images that were skipped for this step."""


@dataclass(frozen=True)
class _Pending:
    step: int
    values: Tensor
    event: torch.cuda.Event | None


class Meter:
    """`push` what a step measured, and get the readings that are due."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def push(self, step: int, measured: Tensor, *, stop: bool, faults: int) -> list[Reading]:
        """The readings of earlier steps; on a CPU of this one.

        Args:
            step: its number.
            measured: loss, top-1 and top-5 of this process: 3, on the device.
            stop: whether this process was asked to stop.
            faults: images that this process skipped.
        """
        here = torch.tensor([float(stop), float(faults)], dtype=torch.float32)
        values = distributed.total(torch.cat([measured, here.to(measured.device, non_blocking=True)]))
        event = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append(_Pending(step, values, event))
        # The device still has the newest step to do while the host waits for the one before.
        return self._read(keep=1 if event is not None else 0)

    def flush(self) -> list[Reading]:
        """All readings that are left."""
        return self._read(keep=0)

    def _read(self, keep: int) -> list[Reading]:
        readings = []
        while len(self._pending) > keep:
            pending = self._pending.popleft()
            if pending.event is not None:
                pending.event.synchronize()
            *means, stop, faults = pending.values.tolist()
            loss, top1, top5 = (value / distributed.size() for value in means)
            readings.append(Reading(pending.step, loss, top1, top5, stop > 0, round(faults)))
        return readings
