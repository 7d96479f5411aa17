"""The process group: one process or many, on CPU (gloo) or GPU (NCCL), by the same code.

Everything here works without a group too, as if it had one member.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from converters.errors import CheckFailed, UserError

T = TypeVar("T")


PATIENCE = timedelta(hours=24)
"""How long a collective operation waits: the main process may evaluate or write for long while the others are at the
next one. Who dies is found by `pretrain.watchdog`, within a minute."""


class HereOnly(UserError):
    """A mistake that other processes may not meet: whoever meets it must say so."""


class HereFailed(CheckFailed):
    """A failure that other processes may not meet: whoever meets it must say so."""


@dataclass(frozen=True)
class World:
    """This process's place among all."""

    rank: int
    size: int
    local_size: int
    """Processes on this machine."""
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, total: int, what: str) -> int:
        """`total` split evenly over the processes.

        Raises:
            UserError: if it does not divide.
        """
        if total % self.size:
            below = total - total % self.size
            valid = [str(value) for value in (below, below + self.size) if value]
            raise UserError(
                expected=f"a {what} that {self.size} processes divide",
                found=str(total),
                cure=f"the nearest that do: {' and '.join(valid)}",
            )
        return total // self.size


@contextmanager
def process_group(device: torch.device | None = None) -> Iterator[World]:
    """This process's `World`; under `torchrun` the group lives as long as the context.

    A group that the caller already made is used and left alone.

    Args:
        device: where to compute; by default the GPU of this local rank, or the CPU where there is none.

    Raises:
        UserError: if there are more processes on this machine than GPUs to give them.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device is None:
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise HereOnly(
                expected=f"a GPU for local process {local_rank}",
                found=f"{torch.cuda.device_count()} GPUs",
                cure="start as many processes as there are GPUs, or use --device cpu",
            )
        torch.cuda.set_device(device)
    started_here = "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized()
    if started_here:
        backend, card = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        dist.init_process_group(backend, device_id=card)
        if hasattr(dist, "set_timeout"):  # only now: forming the group keeps torch's own limit
            dist.set_timeout(PATIENCE)
    try:
        if dist.is_initialized():
            yield World(dist.get_rank(), dist.get_world_size(), local_size, device)
        else:
            yield World(0, 1, 1, device)
    finally:
        if started_here:
            dist.destroy_process_group()


def rank() -> int:
    """This process's rank, 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(tensor: Tensor) -> Tensor:
    """N×… of every process -> (W·N)×…, in the order of ranks. Carries no gradient."""
    if not dist.is_initialized():
        return tensor
    gathered = tensor.new_empty((dist.get_world_size() * len(tensor), *tensor.shape[1:]))
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


def from_main(tensor: Tensor) -> Tensor:
    """Rank 0's values in every process, written in place."""
    if dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


def size() -> int:
    """How many processes there are, 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, written in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_values(value: T) -> list[T]:
    """A small picklable value of every process, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def together(action: Callable[[], T]) -> T:
    """This process's `action()`, once every process has done its own.

    Raises:
        UserError: in every process if any of them met one, so that none waits for a process that left.
        CheckFailed: likewise; elsewhere for an `OSError` too, which its own process raises as it is.
    """
    results: list[T] = []
    fault: UserError | CheckFailed | OSError | None = None
    try:
        results.append(action())
    except (UserError, CheckFailed, OSError) as error:
        fault = error
    first = next(((number, met) for number, met in enumerate(gather_values(_told(fault))) if met is not None), None)
    if first is None:
        return results[0]
    culprit, met = first
    if culprit == rank() and fault is not None:
        raise fault
    elsewhere = f"{met['found']} (in process {culprit})"
    if "expected" not in met:
        raise CheckFailed(elsewhere)
    raise UserError(expected=met["expected"], found=elsewhere, where=met["where"] or None, cure=met["cure"] or None)


def _told(fault: UserError | CheckFailed | OSError | None) -> dict[str, str] | None:
    """An error of ours as plain values: the exceptions themselves cannot be pickled."""
    if fault is None:
        return None
    if isinstance(fault, OSError):
        return {"found": f"{fault.filename or 'this machine'}: {fault.strerror or fault}"}
    if isinstance(fault, CheckFailed):
        return {"found": str(fault)}
    return {
        "expected": fault.expected,
        "found": fault.found,
        "where": str(fault.where or ""),
        "cure": fault.cure or "",
    }


def parse_device(text: str | None) -> torch.device | None:
    """A device from the command line; None for the default.

    Raises:
        UserError: if there is no such device.
    """
    if text is None:
        return None
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UserError(expected="cpu or cuda", found=repr(text), where="--device") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(expected="cpu or cuda", found=repr(text), where="--device")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise HereOnly(expected="a GPU", found="none", where=f"--device {text}", cure="use --device cpu")
    return device
