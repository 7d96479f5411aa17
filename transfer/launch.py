"""Starts commands of the toolkit in processes of their own, each with its log; none outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from converters.child import die_with_parent
from transfer.cells import Resolved


@dataclass
class Running:
    """A started command."""

    resolved: Resolved
    log: Path
    process: subprocess.Popen[bytes]
    slot: int
    started: float

    def last_line(self) -> str:
        """The end of its log, for the overview."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").splitlines()
        return lines[-1].strip() if lines else ""

    def reason(self) -> str:
        """Why it failed: its own error line, or the end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        own = [line for line in lines if line.startswith("moco-transfer: ")]
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        told = own[-1].removeprefix("moco-transfer: ") if own else next((line for line in reversed(lines) if line), "")
        return told.strip() if own else f"{how}: {told.strip()}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Indices of the GPUs that this process may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [index for index in visible.split(",") if index.strip() not in ("", "-1")]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def start(resolved: Resolved, slot: int, slots: int) -> Running:
    """Start the step's command; its output goes to `log.txt` in its folder.

    The cores, or GPUs, are shared out evenly among `slots` commands side by side.
    """
    resolved.folder.mkdir(parents=True, exist_ok=True)
    log = resolved.folder / "log.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // slots)), "PYTHONUNBUFFERED": "1"}
    if devices := gpus():
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "transfer", *resolved.arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            # Safe here: the run has no other thread that could hold a lock between fork and exec.
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
    return Running(resolved=resolved, log=log, process=process, slot=slot, started=time.monotonic())


def stop(running: list[Running]) -> None:
    """End the commands and wait until they are gone."""
    for one in running:
        one.process.terminate()
    for one in running:
        try:
            one.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
