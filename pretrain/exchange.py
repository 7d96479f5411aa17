"""Shuffling among processes by sending each row once (He et al. 2020, section 3.3, asks for shuffled keys).

The reference gathers the global batch in every process, and picks: a process then receives W - 1 times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Exchange:
    """Rows handed out anew among the processes, each sent once: place p gets row `permutation[p]`.

    Of B = W·N places and rows, process r has the r-th N. All is known on the host, so that no device has to wait.

    Args of `plan`:
        permutation: B, on the CPU, the same in every process.
    """

    send: Tensor
    """My rows in the order in which they leave, for process 0 first."""
    send_counts: list[int]
    """How many of them each process gets."""
    receive_counts: list[int]
    """How many rows come from each process."""
    arrange: Tensor
    """For each of my places, where its row stands in what arrives."""

    @classmethod
    def plan(cls, permutation: Tensor, rank: int, world: int) -> Exchange:
        """What process `rank` of `world` sends and receives."""
        N = len(permutation) // world
        owners = permutation // N
        places = (owners == rank).nonzero().flatten()  # where my rows go: ascending, so ordered by process
        arriving = owners[rank * N : (rank + 1) * N]  # where the rows of my places come from
        order = arriving.argsort(stable=True)
        return cls(
            send=permutation[places] - rank * N,
            send_counts=torch.bincount(places // N, minlength=world).tolist(),
            receive_counts=torch.bincount(arriving, minlength=world).tolist(),
            arrange=torch.empty_like(order).scatter_(0, order, torch.arange(N)),
        )

    def __call__(self, rows: Tensor) -> Tensor:
        """N×… -> N×…: the rows of this process's places. Carries no gradient."""
        leaving = rows[self.send.to(rows.device, non_blocking=True)]
        arrived = torch.empty_like(leaving)
        if dist.is_initialized():
            dist.all_to_all_single(arrived, leaving, self.receive_counts, self.send_counts)
        else:
            arrived = leaving
        return arrived[self.arrange.to(rows.device, non_blocking=True)]
