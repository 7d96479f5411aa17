"""A suite from the outside: real processes, killed, resumed, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SUITE = {
    "name": "small",
    "data": {"materials": "sample:images"},
    "sample_data": {"size": "tiny", "seed": 0},
    "backbones": {"first": {"init": "random", "arch": "resnet18"}},
    "protocols": [{"protocol": "quickstart-knn@1", "data": "materials", "set": ["k=[1, 20]", "workers=0"]}],
    "trial_seeds": [0],
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "transfer", *map(str, arguments)]


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command("run", *arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def write_suite(folder: Path, **changes: object) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SUITE | changes))
    return path


def records(folder: Path) -> dict[str, int]:
    """Name and time of last change of every record of the run `small`."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs/small/results").glob("*.json")}


def descendants(pid: int) -> set[int]:
    """The processes below `pid`."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found |= {child} | descendants(child)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find the run's processes")
def test_a_run_that_is_killed_leaves_no_orphan_and_goes_on_where_it_was(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, pretrain_seeds=[0, 1, 2])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        command("run", suite, "--jobs", 1),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 200
    while not records(tmp_path) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children: set[int] = set()
    while not children and first.poll() is None and time.monotonic() < deadline:
        children = descendants(first.pid)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = records(tmp_path)
    assert 1 <= len(before) < 3, "the run was to be killed between its first and its last cell"
    assert children
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, children)), "an orphan goes on working"

    second = run(tmp_path, suite)
    assert second.returncode == 0, second.stdout + second.stderr
    after = records(tmp_path)
    assert len(after) == 3
    assert {name: after[name] for name in before} == before, "a finished cell was run again"
    assert "first" in second.stdout
    assert "runs/small/report/index.html" in second.stdout

    third = run(tmp_path, suite)
    assert third.returncode == 0
    assert records(tmp_path) == after
    assert "start" not in third.stderr


def test_a_failed_cell_is_told_with_its_reason_while_the_others_go_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth.tar"
    broken.write_bytes(b"not a checkpoint")
    backbones = {"broken": {"file": str(broken)}, **SUITE["backbones"]}  # type: ignore[dict-item]
    done = run(tmp_path, write_suite(tmp_path, backbones=backbones))
    assert done.returncode == 1
    assert len(records(tmp_path)) == 1
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 2, "the reading of the checkpoint, and the cell that needs it"
    assert "broken.pth.tar" in failures[0]
    assert "Traceback" not in done.stdout + done.stderr
    plan = json.loads((tmp_path / "runs/small/plan.json").read_text())
    assert [cell["state"] for cell in plan["cells"]] == ["failed", "done"]


def test_a_dry_run_says_what_is_pending_and_does_nothing(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, backbones={"v2": {"recipe": "quickstart-moco-v2@1", "data": "materials"}})
    done = run(tmp_path, suite, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()
    steps = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [step.split()[0] for step in steps] == ["to", "pending", "pending"]
    assert "waits for sample data, pretrain v2 (seed 0)" in done.stdout


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(tmp_path, write_suite(tmp_path))
    assert done.returncode == 2
    assert "one at work" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("quickstrat",), "did you mean 'quickstart'?"),
        (("quickstart", "--data", "material=/x"), "did you mean 'materials'?"),
        (("quickstart", "--set", "baselin=x"), "did you mean 'baseline'?"),
        (("quickstart", "--jobs", "0"), "at least one job"),
        (("quickstart", "--set", "protocols=[{protocol: knn-dno@1, data: materials}]"), "did you mean 'knn-dino@1'?"),
        (
            ("quickstart", "--set", "protocols=[{protocol: knn-dino@1, data: materials, set: [temprature=1]}]"),
            "did you mean 'temperature'?",
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
