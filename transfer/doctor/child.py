"""What the doctor asks of frameworks, each in a process of its own: one that crashes or hangs does no harm.

`python -m transfer.doctor.child NAME` prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from converters.child import die_with_parent


def torch() -> dict[str, Any]:
    """Torch with torchvision, and each GPU by a product of matrices."""
    import torch
    import torchvision
    from torch import distributed

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist()
    gpus = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        gpus.append(
            {
                "name": properties.name,
                "capability": [properties.major, properties.minor],
                "memory": properties.total_memory,
                "fault": _gpu_fault(number),
            }
        )
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "nms": kept == [0],
        "built for": torch.version.cuda,
        "archs": torch.cuda.get_arch_list(),
        "gpus": gpus,
        "gloo": distributed.is_available() and distributed.is_gloo_available(),
        "nccl": distributed.is_available() and distributed.is_nccl_available(),
        "group": _group_fault(on_gpu=bool(gpus) and gpus[0]["fault"] is None),
    }


def _gpu_fault(number: int) -> str | None:
    import torch

    try:
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        return None if bool(((ones @ ones) == 64).all()) else "computes wrong products"
    except RuntimeError as error:
        return str(error).strip().splitlines()[0][:200]


def _group_fault(*, on_gpu: bool) -> str | None:
    """Why a group of one process cannot add up, or on a GPU cannot normalise by SyncBN; None where it can."""
    import torch
    from torch import distributed, nn

    with tempfile.TemporaryDirectory() as folder:
        try:
            backend, device = ("nccl", "cuda:0") if on_gpu else ("gloo", "cpu")
            distributed.init_process_group(backend, init_method=(Path(folder) / "store").as_uri(), rank=0, world_size=1)
            total = torch.ones(1, device=device)
            distributed.all_reduce(total)
            if on_gpu:
                nn.SyncBatchNorm(2).to(device)(torch.randn(4, 2, 3, 3, device=device))
            distributed.destroy_process_group()
        except (RuntimeError, ValueError) as error:
            return f"{backend}: {str(error).strip().splitlines()[0][:200]}"
    return None


def detectron2() -> dict[str, Any]:
    """The parts that detection needs."""
    from converters import detectron2_model  # noqa: F401 - importing is the test
    from evaluators.detection import train  # noqa: F401 - likewise

    return {"versions": _versions("detectron2", "pb1-detectron2")}


def mmseg() -> dict[str, Any]:
    """The parts that segmentation needs."""
    from converters import mmseg_model  # noqa: F401 - importing is the test

    return {
        "versions": _versions(
            "mmengine", "onedl-mmengine", "mmcv", "onedl-mmcv", "mmsegmentation", "onedl-mmsegmentation"
        )
    }


def faiss() -> dict[str, Any]:
    """A search on the CPU by the engine that kNN uses."""
    import faiss

    from evaluators.knn.engines.cpu import FaissCpu
    from evaluators.knn.engines.gpu_probe import WIDTH, problem

    bank, queries = problem()
    scores, rows = FaissCpu().index(bank, workspace=0).search(queries, WIDTH)
    return {
        "version": faiss.__version__,
        "gpus": faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0,
        "built for GPUs": hasattr(faiss, "StandardGpuResources"),
        "scores": scores.tolist(),
        "rows": rows.tolist(),
    }


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


QUESTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch,
    "detectron2": detectron2,
    "mmseg": mmseg,
    "faiss": faiss,
}

if __name__ == "__main__":
    die_with_parent()
    print(json.dumps(QUESTIONS[sys.argv[1]]()))  # noqa: T201 - the answer
