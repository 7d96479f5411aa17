"""Python, cores, memory, shared memory, open files, disk: nothing heavy is imported."""

from __future__ import annotations

import math
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from evaluators.protocols import CATALOGUE
from evaluators.settings.base import FeatureSettings
from transfer.doctor.finding import Finding, gib

_PREFETCHED = 2
"""Batches that a decoding worker of torch's DataLoader has ready."""
_DISK = 20 << 30
"""ImageNet's features of a ResNet-50 take 10.5 GB, a checkpoint of it with optimizer 0.4 GB."""


def findings(system: Path = Path("/")) -> Iterator[Finding]:
    """Of this machine.

    Args:
        system: where `proc` and `sys` lie.
    """
    yield python(sys.version_info[:2], platform.platform())
    yield cores(_usable_cores(), cpu_quota(system), os.environ.get("OMP_NUM_THREADS"))
    yield memory(_available_memory(system))
    yield shared_memory(Path("/dev/shm"))  # noqa: S108 - where torch's workers put their batches
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    folders = {"disk here": Path.cwd(), "disk for temporary files": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        yield disk(name, folder, shutil.disk_usage(folder).free, writable=os.access(folder, os.W_OK))


def python(version: tuple[int, int], system: str) -> Finding:
    """Python's version."""
    found = f"{version[0]}.{version[1]} on {system}"
    if (3, 11) <= version <= (3, 12):
        return Finding(name="python", state="ok", found=found)
    return Finding(name="python", state="fault", found=found, cure="use Python 3.11 or 3.12")


def cores(usable: int, quota: float | None, threads: str | None) -> Finding:
    """Cores, and whether a container's quota leaves them all."""
    found = f"{usable} usable"
    if quota is None or quota >= usable:
        return Finding(name="cores", state="ok", found=found)
    found += f", but a quota of {quota:g}"
    most = max(1, math.floor(quota))
    if threads is not None and threads.isdecimal() and int(threads) <= most:
        return Finding(name="cores", state="ok", found=f"{found}; OMP_NUM_THREADS is {threads}")
    # Torch and FAISS count cores, not quotas: their threads then wait for each other.
    return Finding(name="cores", state="note", found=found, cure=f"set OMP_NUM_THREADS={most}")


def memory(available: int) -> Finding:
    """Main memory that is left."""
    found = f"{gib(available)} available"
    if available >= 8 << 30:
        return Finding(name="memory", state="ok", found=found)
    if available >= 2 << 30:
        cure = "fine-tuning may need 8 GiB: lower batch_size and workers with --set"
        return Finding(name="memory", state="note", found=found, cure=cure)
    cure = "torch alone takes 0.7 GiB a process: end other programs, or raise the container's limit"
    return Finding(name="memory", state="fault", found=found, cure=cure)


def shared_memory(folder: Path) -> Finding:
    """Whether the decoding workers' batches fit."""
    need, protocol = _largest_batches()
    if not folder.is_dir():
        found, cure = f"no {folder}", "where workers fail, use --set workers=0"
        return Finding(name="shared memory", state="note", found=found, cure=cure)
    usage = shutil.disk_usage(folder)
    found = f"{gib(usage.free)} free of {gib(usage.total)} in {folder}"
    if usage.free >= need:
        return Finding(name="shared memory", state="ok", found=found)
    cure = (
        f"{protocol}'s decoding workers may need {gib(need)}: enlarge it (docker run --shm-size=2g or --ipc=host), or "
        "use --set workers=0"
    )
    return Finding(name="shared memory", state="fault", found=found, cure=cure)


def open_files(limit: int) -> Finding:
    """The soft limit."""
    if limit == resource.RLIM_INFINITY or limit >= 1024:
        found = "no limit" if limit == resource.RLIM_INFINITY else f"at most {limit}"
        return Finding(name="open files", state="ok", found=found)
    cure = "workers pass batches as open files: ulimit -n 4096"
    return Finding(name="open files", state="fault", found=f"at most {limit}", cure=cure)


def disk(name: str, folder: Path, free: int, *, writable: bool) -> Finding:
    """A place to write to."""
    found = f"{gib(free)} free in {folder}"
    option = "set TMPDIR to a folder on another disk" if "temporary" in name else "write elsewhere with -o"
    if not writable:
        return Finding(name=name, state="note", found=f"{folder} cannot be written to", cure=option)
    if free >= _DISK:
        return Finding(name=name, state="ok", found=found)
    if free >= 1 << 30:
        cure = f"the features of ImageNet need {gib(_DISK)} with room to spare: {option}"
        return Finding(name=name, state="note", found=found, cure=cure)
    return Finding(name=name, state="fault", found=found, cure=f"make room, or {option}")


def cpu_quota(system: Path) -> float | None:
    """Cores' worth of time that the control group may use; None for no limit."""
    quotas = []
    for folder in _groups(system, "cpu"):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # -1 is no limit
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(system: Path) -> int | None:
    """What the control group leaves, bytes; None for no limit."""
    left = []
    for folder in _groups(system, "memory"):
        for limit_file, usage_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _read(folder / limit_file), _read(folder / usage_file)
            # Version 1 writes no limit as a number near 2^63.
            if limit.isdecimal() and usage.isdecimal() and int(limit) < 1 << 62:
                reclaimable = [
                    line.split()[1] for line in _read(folder / "memory.stat").splitlines() if _is_cache(line)
                ]
                left.append(int(limit) - int(usage) + sum(int(value) for value in reclaimable))
    return min(left, default=None)


def _is_cache(line: str) -> bool:
    return line.split()[:1] in (["inactive_file"], ["total_inactive_file"])


def _available_memory(system: Path) -> int:
    fields = dict(line.split(":", 1) for line in _read(system / "proc/meminfo").splitlines() if ":" in line)
    known = fields.get("MemAvailable", "").split()
    free = int(known[0]) << 10 if known else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory_limit(system)
    return free if limit is None else min(free, max(0, limit))


def _groups(system: Path, controller: str) -> Iterator[Path]:
    """The control group of this process and those above it, version 1 and 2."""
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 mounts controllers together, as `cpu,cpuacct`, often with a link for each; version 2 has one tree.
        for name in {controllers, controllers and controller}:
            root = system / "sys/fs/cgroup" / name
            # Inside a container the path may be the host's, unseen there; the root is then the container's own group.
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _largest_batches() -> tuple[int, str]:
    """Bytes of all batches that are ready at a time, of the protocol on frozen features that needs most."""
    needs = []
    for protocol in CATALOGUE.values():
        settings = protocol.settings
        if isinstance(settings, FeatureSettings):
            batch = settings.batch_size * 3 * settings.crop**2 * 4
            needs.append((min(settings.workers, _usable_cores()) * _PREFETCHED * batch, protocol.id))
    return max(needs)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
