"""A child process that does not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

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
