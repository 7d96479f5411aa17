"""Start real gloo ranks, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
import torch.distributed as dist


def processes() -> ForkServerContext:
    """Where processes come from: forked from one that has loaded torch once, and has no threads.

    There is one such server for all tests of a process; who asks first decides what it loads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "torchvision", "pretrain.checkpoint"])
    return context


def run_ranks(function: Callable[..., None], world: int, *arguments: object, timeout: float = 240) -> None:
    """Call `function(rank, *arguments)` in `world` processes that form a group; assertions belong inside.

    Args:
        function: importable: a process knows nothing of this one's memory.
        world: how many ranks.
        arguments: picklable.
        timeout: seconds.

    Raises:
        AssertionError: with the tracebacks of all ranks that failed, the first to fail first.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = processes().Process
        ranks = [start(target=_enter, args=(rank, function, world, folder, arguments)) for rank in range(world)]
        for process in ranks:
            process.start()
        deadline = time.monotonic() + timeout
        while any(process.is_alive() for process in ranks) and time.monotonic() < deadline:
            if any(process.exitcode for process in ranks):
                deadline = min(deadline, time.monotonic() + 5)  # the others wait for the one that died
            time.sleep(0.05)
        late = [rank for rank, process in enumerate(ranks) if process.is_alive()]
        for process in ranks:
            process.kill()
            process.join()
        faults = sorted(folder.glob("rank*"), key=lambda path: path.stat().st_mtime_ns)
        texts = [f"{path.name}:\n{path.read_text()}" for path in faults]
        texts += [f"rank {rank} was not done after {timeout} s" for rank in late]
        if not texts:
            texts = [f"rank {rank} ended with {p.exitcode}" for rank, p in enumerate(ranks) if p.exitcode]
        if texts:
            raise AssertionError("\n".join(texts))


def _enter(rank: int, function: Callable[..., None], world: int, folder: Path, arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    # A file store needs no port, so that tests beside each other cannot collide.
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=world)
    try:
        function(rank, *arguments)
        dist.destroy_process_group()
    except BaseException:
        (folder / f"rank {rank}").write_text(traceback.format_exc())
        raise SystemExit(1) from None
