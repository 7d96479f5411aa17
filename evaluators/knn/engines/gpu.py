"""FAISS on one or several GPUs, the block sharded over them. Run as a program it is the probe's child."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from evaluators.knn.engines.engine import EngineFault, Index


@dataclass(frozen=True)
class FaissGpu:
    """FAISS on GPUs (see `evaluators.knn.engines.engine.Engine`); use it only where `gpu_probe.fault` finds none."""

    gpus: tuple[int, ...] = ()
    """Their numbers; empty: all that this process sees."""
    half: bool = False
    """Keep the block in fp16."""

    widest = 1024
    """FAISS selects at most 2048 on a GPU, older builds 1024."""

    @property
    def name(self) -> str:
        """As the record shows it."""
        count = len(self.gpus) or faiss.get_num_gpus()
        kind = "search in fp16" if self.half else "exact search"
        return f"{kind} by FAISS {faiss.__version__} on {count} GPU{'s' if count > 1 else ''}"

    @property
    def exact(self) -> bool:
        """Whether no neighbour is missed."""
        return not self.half

    def index(self, block: NDArray[np.float32], workspace: int) -> Index:  # noqa: ARG002 - FAISS has its own bounds
        """Copy the block to the GPUs, a part to each."""
        if not hasattr(faiss, "index_cpu_to_gpus_list"):
            raise EngineFault("this FAISS is built without GPUs")
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        options.useFloat16 = self.half
        flat = faiss.IndexFlatIP(block.shape[1])
        gpus = list(self.gpus) or list(range(faiss.get_num_gpus()))
        if not gpus:
            raise EngineFault("FAISS sees no GPU")
        sharded = faiss.index_cpu_to_gpus_list(flat, options, gpus)
        sharded.add(block)
        return _Sharded(sharded)


@dataclass(frozen=True)
class _Sharded:
    kind: faiss.Index

    def search(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, rows = self.kind.search(queries, width)
        return scores, rows


def _answer(gpus: tuple[int, ...]) -> dict[str, list[list[float]] | list[list[int]]]:
    from evaluators.knn.engines.gpu_probe import WIDTH, problem

    bank, queries = problem()
    scores, rows = FaissGpu(gpus).index(bank, workspace=0).search(queries, WIDTH)
    return {"scores": scores.tolist(), "rows": rows.tolist()}


if __name__ == "__main__":
    json.dump(_answer(tuple(int(word) for word in sys.argv[1:])), sys.stdout)
