"""Real gloo processes that die, freeze or end; the others must notice, whatever their main thread does."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from converters.errors import CheckFailed
from pretrain.watchdog import watching
from tests.distributed import processes

WORLD = 3
SILENT = 2.0  # seconds; far above the beat, because the tests' machine is shared
BEAT = 0.2
BOUND = 40.0


def rank(number: int, folder: Path, what: str) -> None:
    """One process: with its output in a file, it joins the group, and then does `what`."""
    os.dup2(os.open(folder / f"stderr {number}", os.O_WRONLY | os.O_CREAT), 2)
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=number, world_size=WORLD)
    with watching(silent=SILENT, beat=BEAT):
        (folder / f"ready {number}").touch()
        if what == "hang":
            time.sleep(600)  # as a collective operation does that waits for a dead process
        if what == "one late":
            time.sleep(SILENT + 1 if number == 1 else 0)
        if what == "wait in a collective operation":
            while True:
                dist.all_reduce(torch.zeros(1))
        if what == "an error in all":
            raise CheckFailed("met by all")
    dist.destroy_process_group()
    (folder / f"done {number}").touch()


@contextmanager
def group(folder: Path, what: str) -> Iterator[list[BaseProcess]]:
    """The processes, all of them ready."""
    context = processes()
    ranks = [context.Process(target=rank, args=(number, folder, what)) for number in range(WORLD)]
    for process in ranks:
        process.start()
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("ready *"))) < WORLD:
            assert time.monotonic() < deadline, "the group did not come together"
            time.sleep(0.02)
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.join()


def codes(ranks: list[BaseProcess]) -> list[int | None]:
    """Exit codes, when all have ended; None for one that goes on beyond the bound."""
    deadline = time.monotonic() + BOUND
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process.exitcode for process in ranks]


def told(folder: Path, number: int) -> list[str]:
    """What the watchdog said there; torch's own C++ warnings about a lost connection are another voice."""
    lines = (folder / f"stderr {number}").read_text().splitlines()
    return [line for line in lines if line.startswith("pretrain: ")]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_the_others_end_when_one_is_frozen_or_dead(tmp_path: Path, victim: int, how: signal.Signals) -> None:
    with group(tmp_path, "hang") as ranks:
        pid = ranks[victim].pid
        assert pid is not None
        os.kill(pid, how)
        others = [number for number in range(WORLD) if number != victim]
        assert codes([ranks[number] for number in others]) == [1, 1]
        for number in others:
            (line,) = told(tmp_path, number)
            assert line.startswith(f"pretrain: process {victim} on ")
            assert line.endswith(f" has given no sign of life for 2 s; process {number} ends")


@pytest.mark.parametrize("what", ["end", "one late"])
def test_a_clean_end_alarms_nobody(tmp_path: Path, what: str) -> None:
    with group(tmp_path, what) as ranks:
        assert codes(ranks) == [0, 0, 0]
        assert len(list(tmp_path.glob("done *"))) == WORLD
        assert [told(tmp_path, number) for number in range(WORLD)] == [[], [], []]


def test_a_broken_collective_operation_is_one_line_of_ours(tmp_path: Path) -> None:
    with group(tmp_path, "wait in a collective operation") as ranks:
        ranks[1].kill()
        assert codes([ranks[0], ranks[2]]) == [1, 1]
        said = (tmp_path / "stderr 0").read_text() + (tmp_path / "stderr 2").read_text()
        # Whose collective fails first, ends first; the other one sees that, or the first.
        assert re.search(r"HereFailed: process [02] lost its group: another process ended \([^\n]{,160}\)\n", said)


def test_an_error_that_all_meet_passes_through(tmp_path: Path) -> None:
    with group(tmp_path, "an error in all") as ranks:
        assert codes(ranks) == [1, 1, 1]
        for number in range(WORLD):
            assert "converters.errors.CheckFailed: met by all" in (tmp_path / f"stderr {number}").read_text()
            assert told(tmp_path, number) == []


def test_a_pause_of_all_is_no_death(tmp_path: Path) -> None:
    """As when a scheduler suspends a job for a while."""
    with group(tmp_path, "hang") as ranks:
        pids = [process.pid for process in ranks if process.pid is not None]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * SILENT)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(2 * SILENT)
        assert [process.exitcode for process in ranks] == [None, None, None]


def test_without_a_group_there_is_nothing_to_watch() -> None:
    with watching(silent=0.01, beat=0.001):
        time.sleep(0.1)
