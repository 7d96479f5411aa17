"""The loss against cross-entropy over logits that are written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain import info_nce as module
from pretrain.info_nce import info_nce


def written_out(q: Tensor, k: Tensor, negatives: Tensor, T: float) -> tuple[Tensor, Tensor]:
    """He et al. 2020, equation 1, by torch's own softmax; and how many negatives reach each positive."""
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ negatives], dim=1)
    loss = F.cross_entropy(logits / T, torch.zeros(len(q), dtype=torch.long))
    return loss, (logits[:, 1:] >= logits[:, :1]).sum(dim=1)


@given(
    N=st.integers(1, 9),
    K=st.integers(1, 40),
    D=st.integers(1, 12),
    T=st.sampled_from([0.01, 0.07, 0.2, 1.0]),
    block=st.integers(1, 100),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=150)
def test_loss_and_gradient_are_those_of_cross_entropy(N: int, K: int, D: int, T: float, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(N, D, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    negatives = F.normalize(torch.randn(D, K, generator=generator, dtype=torch.float64), dim=0)
    q.requires_grad_()
    wanted, better = written_out(q, k, negatives, T)
    (gradient,) = torch.autograd.grad(wanted, q)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module._BLOCK_ELEMENTS, "cpu", block)
        ours = info_nce(q, k, negatives, T)
    (our_gradient,) = torch.autograd.grad(3 * ours.loss, q)
    assert abs(ours.loss - wanted) <= 1e-12 * max(1, wanted.item())
    assert torch.allclose(our_gradient, 3 * gradient, rtol=1e-10, atol=1e-12)
    assert torch.equal(ours.better, better)


@pytest.mark.parametrize("T", [0.001, 0.07])
def test_extreme_similarities_stay_finite(T: float) -> None:
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    k = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    negatives = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    loss, better = info_nce(q, k, negatives, T)
    (gradient,) = torch.autograd.grad(loss, q)
    assert loss.item() == pytest.approx((2 / T + torch.log(torch.tensor(2.0)).item()) / 2, rel=1e-5)
    assert torch.isfinite(gradient).all()
    assert better.tolist() == [2, 1]


def test_the_negatives_may_be_overwritten_before_the_backward_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, negatives = (torch.randn(shape, generator=generator) for shape in ((4, 8), (4, 8), (8, 16)))
    q.requires_grad_()
    (wanted,) = torch.autograd.grad(written_out(q, k, negatives, 0.2)[0], q)
    loss = info_nce(q, k, negatives, 0.2).loss
    negatives.zero_()
    (gradient,) = torch.autograd.grad(loss, q)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_autocast_does_not_reach_the_similarities() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, negatives = (torch.randn(shape, generator=generator) for shape in ((4, 8), (4, 8), (8, 16)))
    plain = info_nce(q, k, negatives, 0.2).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(q, k, negatives, 0.2).loss, plain)


def test_collapsed_embeddings_win_nothing() -> None:
    q = torch.ones(3, 4) / 2
    assert info_nce(q, q, torch.ones(4, 9) / 2, 0.2).better.tolist() == [9, 9, 9]
