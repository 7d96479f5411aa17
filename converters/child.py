"""A child process that does not outlive its parent, or whose answer is wanted whatever becomes of it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel for SIGTERM when this process's parent dies, even by kill -9: no orphan goes on writing.

    Does nothing where the kernel is not Linux.

    Args:
        parent: its process id, where this process was started long enough ago that the parent may be dead already; if
            it is, SIGTERM comes at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        signal.raise_signal(signal.SIGTERM)


def answer(command: Sequence[str], patience: float) -> tuple[Any, str | None]:
    """What a child process answers; one that crashes, hangs or babbles takes nothing down.

    Args:
        command: prints JSON as its last line.
        patience: seconds.

    Returns:
        The answer and None, or None and what became of the child, as `crashed (SIGSEGV)`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return None, f"gave no answer in {patience:g} s"
    if done.returncode < 0:
        return None, f"crashed ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return None, f"failed: {lines[-1].strip()[:200]}" if lines else f"ended with exit code {done.returncode}"
    lines = done.stdout.splitlines()
    try:
        return json.loads(lines[-1] if lines else ""), None
    except ValueError:
        return None, "gave no answer that can be read"
