"""Groups of small programs: whose exit code counts, and who dies with whom."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converters.errors import UserError
from pretrain import launch

ROOT = Path(__file__).parents[2]

CODES = "import os, sys, time; rank = int(os.environ['RANK']); "
STUBBORN = "time.sleep(600)"
REPORT = "print(*(os.environ[n] for n in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'OMP_NUM_THREADS')))"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(2)", 2),
        ("sys.exit(75)", 75),
        ("sys.exit(75 * rank)", 75),
        # The first to fail counts, not the one that fails because the first is gone.
        ("time.sleep(rank); sys.exit((2, 1)[rank])", 2),
        # But a mistake counts, however long who made it takes to end.
        ("time.sleep(1 - rank); sys.exit((2, 1)[rank])", 2),
        ("time.sleep(1 - rank); sys.exit((3, 1)[rank])", 1),
        # A run whose checkpoint could not be written must not be queued again as if it had one.
        ("time.sleep(1 - rank); sys.exit((1, 75)[rank])", 1),
        ("os.kill(os.getpid(), 9 * rank)", 1),
    ],
)
def test_the_exit_code_is_that_of_the_first_to_fail(code: str, expected: int) -> None:
    assert launch.launch(python(CODES + code), 2) == expected


def test_a_process_that_is_killed_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.launch(python(CODES + "os.kill(os.getpid(), 9 * rank)"), 2) == 1
    assert capfd.readouterr().err == "pretrain: process 1 was killed by SIGKILL\n"


def test_what_does_not_end_after_a_failure_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "GRACE_AFTER_FAILURE", 0.5)
    assert launch.launch(python(CODES + f"sys.exit(2) if rank else {STUBBORN}"), 2) == 2
    assert capfd.readouterr().err == "pretrain: killed, because they did not end in time: 0\n"


def test_each_process_knows_its_place(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch.launch(python(CODES + REPORT), 2) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["0 2 0 2 3", "1 2 1 2 3"]


GROUP = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(total)
assert total.item() == 3
dist.destroy_process_group()
"""


def test_the_processes_form_a_group() -> None:
    assert launch.launch(python(GROUP), 2) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "--processes: expected a whole number above 0, found 0"),
        ((2, 0), "--nodes: expected a whole number above 0, found 0"),
        ((2, 2), "--rendezvous: expected HOST:PORT of one of the machines, found none"),
        ((2, 2, "gpu01"), "found 'gpu01'; give the same to all 2, as --rendezvous gpu01:29400"),
        ((2, 2, "gpu01:70000"), "found 'gpu01:70000'"),
        ((2, 1, "gpu01:29400"), "--rendezvous: expected --nodes above 1, found 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments: tuple[int, int, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        launch.launch(python("pass"), *arguments)


def test_two_launchers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="leave these options out, or torchrun"):
        launch.launch(python("pass"), 2)


# A worker with handlers as a training loop has them; it tells its process id by a file, and does not import torch.
WORKER = """
import os, pathlib, sys, time
from pretrain.launch import begin_worker
from pretrain.signals import stop_requests
begin_worker()
with stop_requests() as stop:
    pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(os.getpid()))
    while not stop.requested:
        time.sleep(0.02)
    time.sleep(1)  # the step is finished, the checkpoint written
    pathlib.Path(sys.argv[1], "saved" + os.environ["RANK"]).touch()
sys.exit(75)
"""
LAUNCHER = """
import sys
from pretrain import launch
launch.GRACE = float(sys.argv[2])
sys.exit(launch.launch([sys.executable, "-c", sys.argv[3], sys.argv[1]], 2))
"""


@contextmanager
def launched(
    folder: Path, worker: str = WORKER, grace: float = 60
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A launcher of two workers, and their process ids."""
    words = [sys.executable, "-c", LAUNCHER, str(folder), str(grace), worker]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    pids: list[int] = []
    try:
        wait_until(lambda: all((folder / rank).is_file() and (folder / rank).read_text() for rank in "01"))
        pids = [int((folder / rank).read_text()) for rank in "01"]
        yield process, pids
    finally:
        for pid in [pid for pid in pids if alive(pid)]:
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent to see it counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_all_and_they_have_time_to_save(tmp_path: Path, number: signal.Signals) -> None:
    with launched(tmp_path) as (process, _):
        process.send_signal(number)
        assert process.wait(timeout=60) == 75
        assert (tmp_path / "saved0").exists()
        assert (tmp_path / "saved1").exists()


def test_what_does_not_heed_a_signal_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = WORKER.replace("while not stop.requested", "while True")
    with launched(tmp_path, stubborn, grace=1) as (process, pids):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
        assert not any(map(alive, pids))
        assert process.stderr is not None
        assert process.stderr.read() == "pretrain: killed, because they did not end in time: 0, 1\n"


def test_the_workers_die_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    with launched(tmp_path) as (process, pids):
        process.kill()
        wait_until(lambda: not any(map(alive, pids)))
        assert (tmp_path / "saved0").exists()
        assert (tmp_path / "saved1").exists()
