"""Bytes that shuffle-BN moves, by gathering (the reference) and by one exchange (ours): `python -m benchmarks.shuffle`.

For 2, 4 and 8 processes they are also counted on the loopback interface, under gloo; other traffic there, at the same
time, would be counted too. For 64 they follow from the plan of the exchange, which the counts confirm.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from converters.distributed import gather
from pretrain.exchange import Exchange


def planned(world: int, N: int, image_bytes: int) -> tuple[float, float]:
    """Mean bytes that a process receives: by gathering, and by the exchange."""
    permutation = torch.randperm(world * N, generator=torch.Generator().manual_seed(0))
    received = 0
    for rank in range(world):
        counts = Exchange.plan(permutation, rank, world).receive_counts
        received += sum(counts) - counts[rank]
    return (world - 1) * N * image_bytes, received / world * image_bytes


def loopback() -> int:
    """Bytes that the loopback interface has received so far."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def counted(rank: int, world: int, N: int, side: int, store: str, result: str) -> None:  # noqa: PLR0917 - spawn's way
    """What one process does; process 0 writes both counts."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    images = torch.rand(N, 3, side, side)
    permutation = torch.randperm(world * N, generator=torch.Generator().manual_seed(0))
    plan = Exchange.plan(permutation, rank, world)
    mine = permutation[rank * N : (rank + 1) * N]
    ways: list[Callable[[], Tensor]] = [lambda: gather(images)[mine], lambda: plan(images)]
    assert torch.equal(ways[0](), ways[1]())  # also opens all connections
    counts = []
    for way in ways:
        dist.barrier()
        time.sleep(0.2)
        before = loopback()
        dist.barrier()
        way()
        dist.barrier()
        time.sleep(0.2)
        counts.append(loopback() - before)
    if rank == 0:
        Path(result).write_text(" ".join(map(str, counts)), encoding="ascii")
    dist.destroy_process_group()


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-process", type=int, default=32, help="images of a process (the papers': 32)")
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    N, image_bytes = args.per_process, 3 * args.size**2 * 4
    print(f"fp32 images of {args.size} px, {N} a process; MiB that a process receives in a step")
    print(f"{'processes':>10}{'gathering':>12}{'exchange':>12}{'ratio':>8}{'counted on lo, a process':>32}")
    for world in (2, 4, 8, 64):
        gathering, exchange = (value / 2**20 for value in planned(world, N, image_bytes))
        seen = ""
        if world <= 8:
            with tempfile.TemporaryDirectory() as folder:
                store, result = (Path(folder) / "store").as_uri(), str(Path(folder) / "counts")
                torch.multiprocessing.spawn(counted, (world, N, args.size, store, result), nprocs=world)
                both = [int(word) / 2**20 / world for word in Path(result).read_text(encoding="ascii").split()]
            seen = f"{both[0]:.1f} and {both[1]:.1f}"
        print(f"{world:>10}{gathering:>12.1f}{exchange:>12.1f}{gathering / exchange:>8.1f}{seen:>32}")


if __name__ == "__main__":
    main()
