"""Torch, CUDA, detectron2, mmsegmentation, FAISS: asked in child processes side by side, judged here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from converters.child import answer
from evaluators.knn.engines import gpu_probe
from transfer.doctor.finding import Finding, gib

PATIENCE = 180.0
"""Seconds for the imports of a framework, on a slow file system too."""

Answer = tuple[Any, str | None]
"""What a child said, and None; or None, and what became of it."""


def findings(patience: float = PATIENCE) -> Iterator[Finding]:
    """Of all frameworks."""
    questions: dict[str, Callable[[], Answer]] = {
        name: lambda name=name: answer([sys.executable, "-m", "transfer.doctor.child", name], patience)  # type: ignore[misc]  # mypy infers no lambda with a default
        for name in ("torch", "detectron2", "mmseg", "faiss")
    }
    with ThreadPoolExecutor() as pool:
        answers = {name: pool.submit(question) for name, question in questions.items()}
        driver, gpu_search = pool.submit(_driver), pool.submit(gpu_probe.fault, ())
        yield from torch(answers["torch"].result())
        yield from cuda(answers["torch"].result(), driver.result())
        said, _ = answers["torch"].result()
        gpus = len(said["gpus"]) if said else 0
        yield from framework("detectron2", ("detectron2",), DETECTRON2, answers["detectron2"].result())
        yield from framework("mmseg", ("mmengine", "mmcv", "mmseg"), MMSEG, answers["mmseg"].result())
        yield faiss(answers["faiss"].result())
        yield faiss_gpu(answers["faiss"].result()[0], gpus, gpu_search.result())


DETECTRON2 = ("detection", "uv pip install --group detectron2 (from a checkout of moco-transfer)")
MMSEG = ("segmentation", "pip install 'moco-transfer[mmseg]'")
_TORCH_CURE = "install torch and torchvision of one release: pip install --force-reinstall torch torchvision"


def torch(said: Answer) -> Iterator[Finding]:
    """Torch, torchvision, and what processes speak through."""
    found, became = said
    if found is None:
        yield Finding(name="torch", state="fault", found=f"importing it {became}", cure=_TORCH_CURE)
        return
    versions = f"{found['torch']} with torchvision {found['torchvision']}"
    if not found["nms"]:
        yield Finding(name="torch", state="fault", found=f"{versions}: a wrong result of nms", cure=_TORCH_CURE)
    else:
        yield Finding(name="torch", state="ok", found=versions)
    backends = " and ".join(name for name in ("gloo", "nccl") if found[name]) or "neither gloo nor nccl"
    if found["group"]:
        cure = "several processes cannot work together: without --processes all else works"
        yield Finding(name="processes", state="fault", found=f"{backends}; {found['group']}", cure=cure)
    else:
        yield Finding(name="processes", state="ok", found=f"{backends}; a group of one adds up")


def cuda(said: Answer, driver: str | None) -> Iterator[Finding]:
    """The GPUs, and what becomes of SyncBN.

    Args:
        said: of torch.
        driver: what nvidia-smi says; None without a GPU that it sees.
    """
    found, _ = said
    if found is None:
        return
    built = f"torch is built for CUDA {found['built for']}" if found["built for"] else "torch is built without CUDA"
    if not found["gpus"]:
        if driver is None:
            yield Finding(name="GPU", state="note", found=f"none ({built}): everything runs on the CPU")
        elif found["built for"] is None:
            cure = "install torch's CUDA build"
            yield Finding(name="GPU", state="fault", found=f"{driver}, but {built}", cure=cure)
        else:
            cure = "check CUDA_VISIBLE_DEVICES; if it is unset, the driver is too old for that CUDA: update it"
            yield Finding(name="GPU", state="fault", found=f"{driver}, which torch cannot use ({built})", cure=cure)
    for number, gpu in enumerate(found["gpus"]):
        capability = tuple(gpu["capability"])
        name = f"GPU {number}"
        words = f"{gpu['name']}, capability {capability[0]}.{capability[1]}, {gib(gpu['memory'])}; {built}; {driver}"
        if gpu["fault"]:
            cure = f"use --device cpu, or {_ARCH_CURE}" if not built_for(capability, found["archs"]) else _GPU_CURE
            yield Finding(name=name, state="fault", found=f"{words}: {gpu['fault']}", cure=cure)
        elif not built_for(capability, found["archs"]):
            archs = " ".join(found["archs"])
            note = f"{words}; no code for it among {archs}, yet it computes"
            yield Finding(name=name, state="note", found=note, cure=_ARCH_CURE)
        else:
            yield Finding(name=name, state="ok", found=words)
    if found["gpus"] and not found["group"]:
        yield Finding(name="SyncBN", state="ok", found="normalises on the GPU")
    elif found["gpus"]:
        cure = "detection and segmentation on GPUs need it; repair the process group above"
        yield Finding(name="SyncBN", state="fault", found="does not run on the GPU", cure=cure)
    else:
        yield Finding(
            name="SyncBN", state="note", found="needs a GPU: without one BN takes its place, and records say so"
        )


_ARCH_CURE = "install a torch whose torch.cuda.get_arch_list() names its architecture"
_GPU_CURE = "end what fills or blocks it (see nvidia-smi), or use --device cpu"


def built_for(capability: tuple[int, ...], archs: list[str]) -> bool:
    """Whether a wheel has code for a GPU: machine code of the same major and no later minor version, or PTX to compile.

    Args:
        capability: major and minor.
        archs: as `sm_90`, `sm_90a` or `compute_90`.
    """
    for arch in archs:
        kind, _, number = arch.partition("_")
        digits = "".join(character for character in number if character.isdigit())
        if not digits:
            continue
        version = int(digits[:-1]), int(digits[-1])
        exact = number != digits  # `sm_90a` runs on that capability alone
        if (
            kind == "sm"
            and version[0] == capability[0]
            and version <= capability
            and (not exact or version == capability)
        ):
            return True
        if kind == "compute" and version <= capability and not exact:
            return True
    return False


def framework(name: str, packages: tuple[str, ...], use: tuple[str, str], said: Answer) -> Iterator[Finding]:
    """A framework that one task needs: its absence is a note, its breakage a fault."""
    task, install = use
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    found, became = said
    if absent:
        yield Finding(name=name, state="note", found=f"{absent[0]} is not installed", cure=f"for {task}: {install}")
    elif found is None:
        yield Finding(name=name, state="fault", found=f"importing it {became}", cure=f"install it anew: {install}")
    else:
        versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
        yield Finding(name=name, state="ok", found=versions or "imports")


def faiss(said: Answer) -> Finding:
    """FAISS's search on the CPU, compared with numpy's."""
    found, became = said
    cure = "install it anew: pip install --force-reinstall faiss-gpu (Linux on x86-64) or faiss-cpu"
    if found is None:
        return Finding(name="FAISS", state="fault", found=f"a search {became}", cure=cure)
    name = f"{found['version']}, built {'for' if found['built for GPUs'] else 'without'} GPUs"
    if not gpu_probe.right(np.asarray(found["scores"]), np.asarray(found["rows"])):
        return Finding(name="FAISS", state="fault", found=f"{name}: a search found wrong neighbours", cure=cure)
    return Finding(name="FAISS", state="ok", found=f"{name}; searches right on the CPU")


def faiss_gpu(found: Any, gpus: int, fault: str | None) -> Finding:
    """FAISS's search on the GPUs; kNN does without it.

    Args:
        found: what FAISS's child said; None for nothing.
        gpus: how many torch sees.
        fault: of the trial search.
    """
    if not gpus:
        return Finding(name="FAISS on GPUs", state="note", found="no GPU to search on: kNN searches on the CPU")
    if fault is None:
        return Finding(name="FAISS on GPUs", state="ok", found=f"searches right on {gpus}")
    cure = "kNN takes torch on the GPU instead, just as exact; for FAISS install a faiss-gpu built for this GPU"
    if found and not found["built for GPUs"]:
        fault = "this FAISS is built without GPUs"
    return Finding(name="FAISS on GPUs", state="note", found=fault, cure=cure)


def _driver() -> str | None:
    """The driver and first GPU as nvidia-smi tells them; None where it tells nothing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, version = done.stdout.strip().partition("\n")[0].partition(", ")
    return f"driver {version} with {name}" if version else None
