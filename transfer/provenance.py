"""How a number was made: the command, the code, the packages and the device."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from transfer import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "faiss-cpu",
    "faiss-gpu",
    "detectron2",
    "pb1-detectron2",
    "mmengine",
    "mmcv",
    "mmsegmentation",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmsegmentation",
)


def versions() -> dict[str, str]:
    """Versions of Python, of this toolkit and of every package that can change a number, as far as installed."""
    found = {"python": platform.python_version(), "moco-transfer": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> tuple[str | None, bool | None]:
    """The git commit of the toolkit's source and whether it is modified; (None, None) for an installed wheel."""
    folder = Path(__file__).resolve().parent
    # A wheel inside some other project's checkout must not claim that project's commit.
    tracked = _git(folder, "ls-files", "--error-unmatch", "suite.py")
    if tracked is None:
        return None, None
    return _git(folder, "rev-parse", "HEAD"), bool(
        _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "..")
    )


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def device_name(kind: str, processes: int = 1) -> str:
    """The device in words, as `cpu (2 cores)` or the name of the GPU; with the number of processes that shared it."""
    return _device_name(kind) + (f", {processes} processes" if processes > 1 else "")


def _device_name(kind: str) -> str:
    if kind == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    import os

    return f"{kind} ({len(os.sched_getaffinity(0))} cores)" if hasattr(os, "sched_getaffinity") else kind
