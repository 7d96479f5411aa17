from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.doctor import machine

GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/user/job", "proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {32 << 20} kB"}
V1 = {"proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job", "proc/meminfo": V2["proc/meminfo"]}


def test_a_quota_and_a_limit_of_control_groups_version_2(tmp_path: Path) -> None:
    """The tightest of the group and those above it counts; inactive files can be had back."""
    system = tree(
        tmp_path,
        {
            **V2,
            "sys/fs/cgroup/user/cpu.max": "150000 100000",
            "sys/fs/cgroup/user/job/cpu.max": "max 100000",
            "sys/fs/cgroup/user/memory.max": str(4 * GIB),
            "sys/fs/cgroup/user/memory.current": str(3 * GIB),
            "sys/fs/cgroup/user/memory.stat": f"anon {GIB}\ninactive_file {GIB}",
            "sys/fs/cgroup/user/job/memory.max": "max",
            "sys/fs/cgroup/user/job/memory.current": "0",
        },
    )
    assert machine.cpu_quota(system) == 1.5
    assert machine.memory_limit(system) == 2 * GIB


def test_a_quota_and_a_limit_of_control_groups_version_1(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        {
            **V1,
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "0",
        },
    )
    assert machine.cpu_quota(system) is None
    assert machine.memory_limit(system) is None
    tree(
        tmp_path,
        {
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB // 4),
        },
    )
    assert machine.cpu_quota(system) == 0.5
    assert machine.memory_limit(system) == 3 * GIB // 4


def test_each_fault_has_its_cure() -> None:
    faults = {
        machine.python((3, 10), "Linux"): ("fault", "3.11 or 3.12"),
        machine.python((3, 13), "Linux"): ("fault", "3.11 or 3.12"),
        machine.cores(8, 2.5, None): ("note", "OMP_NUM_THREADS=2"),
        machine.cores(8, 0.5, "4"): ("note", "OMP_NUM_THREADS=1"),
        machine.memory(3 * GIB): ("note", "batch_size"),
        machine.memory(GIB): ("fault", "raise the container's limit"),
        machine.open_files(256): ("fault", "ulimit -n"),
        machine.disk("disk here", Path("x"), 5 * GIB, writable=True): ("note", "-o"),
        machine.disk("disk here", Path("x"), 5 << 20, writable=True): ("fault", "make room"),
        machine.disk("disk for temporary files", Path("x"), 5 << 20, writable=True): ("fault", "TMPDIR"),
        machine.disk("disk here", Path("x"), 500 * GIB, writable=False): ("note", "-o"),
    }
    for finding, (state, cure) in faults.items():
        assert finding.state == state
        assert finding.cure is not None
        assert cure in finding.cure
        assert finding.line().startswith(state)
    sound = [
        machine.python((3, 11), "Linux"),
        machine.cores(8, None, None),
        machine.cores(8, 8.0, None),
        machine.cores(8, 2.0, "2"),
        machine.memory(9 * GIB),
        machine.open_files(1024),
        machine.open_files(resource.RLIM_INFINITY),
        machine.disk("disk here", Path("x"), 500 * GIB, writable=True),
    ]
    assert {finding.state for finding in sound} == {"ok"}


def test_shared_memory_is_held_against_what_workers_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need, protocol = machine._largest_batches()
    # A hundred images of 224 pixels at the least, and no more than all the machine's cores prefetch of the largest.
    assert need >= 100 * 3 * 224 * 224 * 4
    assert machine.shared_memory(tmp_path / "absent").state == "note"
    for free, state in ((need, "ok"), (need - 1, "fault")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: _Usage(free))
        finding = machine.shared_memory(tmp_path)
        assert finding.state == state
        assert state == "ok" or (finding.cure and protocol in finding.cure and "--shm-size" in finding.cure)


class _Usage:
    def __init__(self, free: int) -> None:
        self.total, self.free = 64 << 20, free


def test_the_command_tells_of_this_machine(tmp_path: Path) -> None:
    """A limit of 200 open files is a fault: one line with its cure, exit code 1."""
    command = [sys.executable, "-m", "transfer", "doctor", "--quick"]
    low = ["bash", "-c", 'ulimit -n 200; exec "$@"', "bash"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    told = [
        subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for words in ([*low, *command], [*command, "--json"])
    ]
    assert (told[0].returncode, told[0].stderr) == (1, "")
    assert "fault  open files    at most 200; workers pass batches as open files: ulimit -n 4096" in told[0].stdout
    found = {finding["name"]: finding for finding in json.loads(told[1].stdout)}
    assert list(found) == [
        "python",
        "cores",
        "memory",
        "shared memory",
        "open files",
        "disk here",
        "disk for temporary files",
    ]
    assert found["cores"]["found"].startswith(f"{len(os.sched_getaffinity(0))} usable")
    assert told[1].returncode == int(any(finding["state"] == "fault" for finding in found.values()))
