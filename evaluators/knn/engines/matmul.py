"""Matrix products in torch, on any device: what remains on a GPU where FAISS does not work there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.knn.engines.engine import Index


@dataclass(frozen=True)
class Matmul:
    """Queries times block, then the largest (see `evaluators.knn.engines.engine.Engine`)."""

    device: torch.device
    half: bool = False
    """Multiply in fp16."""

    widest = None

    @property
    def name(self) -> str:
        """As the record shows it."""
        kind = "search in fp16" if self.half else "exact search"
        where = "the CPU" if self.device.type == "cpu" else "one GPU"
        return f"{kind} by torch {torch.__version__.partition('+')[0]} on {where}"

    @property
    def exact(self) -> bool:
        """Whether no neighbour is missed."""
        return not self.half

    def index(self, block: NDArray[np.float32], workspace: int) -> Index:
        """Copy the block to the device."""
        held = torch.from_numpy(block).to(self.device)
        return _Held(held.half() if self.half else held, workspace)


@dataclass(frozen=True)
class _Held:
    block: Tensor
    workspace: int

    def search(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores = np.empty((len(queries), width), dtype=np.float32)
        rows = np.empty((len(queries), width), dtype=np.int64)
        step = max(1, self.workspace // (4 * len(self.block)))
        with torch.inference_mode(), _float32_means_float32():
            for start in range(0, len(queries), step):
                part = slice(start, start + step)
                asked = torch.from_numpy(queries[part]).to(self.block.device, self.block.dtype)
                largest = (asked @ self.block.T).float().topk(width, dim=1)
                scores[part] = largest.values.cpu().numpy()
                rows[part] = largest.indices.cpu().numpy()
        return scores, rows


@contextmanager
def _float32_means_float32() -> Iterator[None]:
    """No TF32, whose products have 11 bits: the candidates' bound would not hold."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
