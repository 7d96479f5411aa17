"""Shuffling by one exchange, against gathering everything."""

from __future__ import annotations

import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain.exchange import Exchange
from tests.distributed import run_ranks


def delivered(permutation: Tensor, world: int) -> list[Tensor]:
    """What each process ends with, the sending done by hand: row numbers stand for rows."""
    N = len(permutation) // world
    plans = [Exchange.plan(permutation, rank, world) for rank in range(world)]
    parcels = [
        torch.arange(rank * N, (rank + 1) * N)[plan.send].split(plan.send_counts) for rank, plan in enumerate(plans)
    ]
    for rank, plan in enumerate(plans):
        assert [len(parcels[source][rank]) for source in range(world)] == plan.receive_counts
    return [
        torch.cat([parcels[source][rank] for source in range(world)])[plan.arrange] for rank, plan in enumerate(plans)
    ]


@given(world=st.integers(1, 9), N=st.integers(1, 7), seed=st.integers(0, 999))
@settings(deadline=None)
def test_each_place_gets_its_row_and_each_row_travels_once(world: int, N: int, seed: int) -> None:
    permutation = torch.randperm(world * N, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.cat(delivered(permutation, world)), permutation)
    assert sum(sum(Exchange.plan(permutation, rank, world).send_counts) for rank in range(world)) == world * N


def equal_to_gathering(rank: int, world: int) -> None:
    N = 5
    for seed, dtype in ((0, torch.float32), (1, torch.bfloat16), (2, torch.uint8)):
        generator = torch.Generator().manual_seed(seed)
        permutation = torch.randperm(world * N, generator=generator)
        mine = (torch.rand(N, 3, 4, 4) * 255).to(dtype)
        gathered = torch.empty(world * N, 3, 4, 4, dtype=torch.float32)
        dist.all_gather_into_tensor(gathered, mine.float())
        expected = gathered[permutation[rank * N : (rank + 1) * N]]
        for memory_format in (torch.contiguous_format, torch.channels_last):
            got = Exchange.plan(permutation, rank, world)(mine.contiguous(memory_format=memory_format))
            assert torch.equal(got.float(), expected), (dtype, memory_format)


def test_three_processes_get_what_gathering_gives() -> None:
    run_ranks(equal_to_gathering, 3, 3)
