"""InfoNCE (He et al. 2020, equation 1) against a dictionary of negatives that is only read.

The logits are made a block of negatives at a time, and the gradient of the query in the same pass: nothing of the size
N×K is stored, the queue is not copied, and it may be overwritten before the backward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK_ELEMENTS = {"cpu": 1 << 18}
"""Logits at a time: on a CPU 1 MiB in fp32, which stays in a core's cache."""
_BLOCK_ELEMENTS_ELSEWHERE = 1 << 24


class Contrast(NamedTuple):
    """What a batch of N queries scores."""

    loss: Tensor
    """The mean InfoNCE of the queries, nats; a scalar that carries the gradient."""
    better: Tensor
    """For each query, the negatives that do not score below its positive: N, int64."""


def info_nce(q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> Contrast:
    """-log(exp(q·k/T) / (exp(q·k/T) + Σ exp(q·n/T))), the gradient flowing to `q` alone.

    Args:
        q: N×D queries.
        k: N×D, the positive of each.
        negatives: D×K, common to all.
        temperature: T.
    """
    # Whatever autocast does to the encoders, similarities are computed in the precision of q.
    with torch.autocast(q.device.type, enabled=False):
        loss, better = _InfoNCE.apply(q, k, negatives, temperature)
    return Contrast(loss, better)


def accuracy(better: Tensor) -> Tensor:
    """Top-1 and top-5 contrastive accuracy, percent, as a tensor of two; a tie is no win."""
    return 100 * torch.stack([better < 1, better < 5]).to(torch.float32).mean(dim=1)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        N = len(q)
        scaled = q / temperature
        positive = (scaled * k).sum(dim=1, keepdim=True)  # N×1
        better = torch.zeros(N, dtype=torch.long, device=q.device)
        largest = positive.clone()  # of each row so far: exp never sees a number above 0
        total = torch.ones_like(positive)  # Σ exp(s - largest), the positive included
        mean_key = torch.zeros_like(q)  # Σ exp(s - largest) · negative
        block_elements = _BLOCK_ELEMENTS.get(q.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
        for block in negatives.split(max(1, block_elements // N), dim=1):  # type: ignore[no-untyped-call]
            s = scaled @ block  # N×block
            better += (s >= positive).sum(dim=1)
            previous, largest = largest, torch.maximum(largest, s.amax(dim=1, keepdim=True))
            shrink = (previous - largest).exp_()
            weights = s.sub_(largest).exp_()
            total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
            mean_key.mul_(shrink).addmm_(weights, block.T)
        loss = (largest - positive + total.log()).mean()
        # dL/dq = (Σ p_n·n - (1 - p_k)·k) / (T·N), with the softmax p.
        p_k = (positive - largest).exp_() / total
        ctx.save_for_backward(mean_key.div_(total).sub_(k * (1 - p_k)).div_(temperature * N))
        ctx.mark_non_differentiable(better)
        return loss, better

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None, None, None
