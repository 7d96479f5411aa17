"""FAISS on the CPU: exact, or approximate with fp16 or an inverted file (IVF). FAISS obeys OMP_NUM_THREADS."""

from __future__ import annotations

import math
import platform
import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.errors import MissingPackage
from evaluators.knn.engines.engine import Index

try:
    import faiss
except ImportError:
    _WHEEL = "faiss-gpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "faiss-cpu"
    raise MissingPackage("faiss", f"pip install {_WHEEL}", "kNN search") from None

_SEED = 1234
"""Of the k-means that makes an inverted file's lists."""


@dataclass(frozen=True)
class FaissCpu:
    """FAISS on the CPU (see `evaluators.knn.engines.engine.Engine`)."""

    search: Literal["exact", "fp16", "ivf"] = "exact"
    probes: int = 32
    """Lists of an inverted file that are searched."""

    widest = None

    @property
    def name(self) -> str:
        """As the record shows it."""
        kind = {
            "exact": "exact search",
            "fp16": "search in fp16",
            "ivf": f"IVF search of {self.probes} lists",
        }
        return f"{kind[self.search]} by FAISS {faiss.__version__} on the CPU"

    @property
    def exact(self) -> bool:
        """Whether no neighbour is missed."""
        return self.search == "exact"

    def index(self, block: NDArray[np.float32], workspace: int) -> Index:  # noqa: ARG002 - FAISS has its own bounds
        """No copy is made for exact search; fp16 and IVF make one."""
        if self.search == "exact":
            return _Flat(block)
        rows, dim = block.shape
        kind: Any
        if self.search == "fp16":
            kind = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
            kind.train(block)
        else:
            lists = max(1, min(rows // 39, round(4 * math.sqrt(rows))))  # FAISS wants 39 rows a list to train on
            kind = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
            kind.cp.seed = _SEED
            kind.train(block)
            kind.nprobe = min(self.probes, lists)
        kind.add(block)
        return _Built(kind)


@dataclass(frozen=True)
class _Flat:
    block: NDArray[np.float32]

    def search(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, rows = faiss.knn(queries, self.block, width, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, rows


@dataclass(frozen=True)
class _Built:
    kind: faiss.Index

    def search(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, rows = self.kind.search(queries, width)
        return scores, rows


def threads() -> int:
    """How many FAISS uses."""
    return int(faiss.omp_get_max_threads())
