from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evaluators.linear.heads import Heads
from evaluators.predictions import rank

LRS, DECAYS = (0.1, 3.0, 30.0), (0.0, 1e-3)
SETTINGS = [(lr, decay) for lr in LRS for decay in DECAYS]
D, C, BATCHES = 16, 5, 20


def data(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for step in range(BATCHES):
        n = 8 if step < BATCHES - 1 else 3
        x = torch.randn(n, D, generator=generator, dtype=torch.float64).relu().to(dtype)
        batches.append((x, torch.randint(C, (n,), generator=generator)))
    return batches


def first(dtype: torch.dtype) -> Tensor:
    return (torch.randn(len(SETTINGS), C, D, generator=torch.Generator().manual_seed(1)) * 0.01).to(dtype)


def batched(dtype: torch.dtype) -> tuple[Heads, list[Tensor], list[Tensor]]:
    lrs, decays = zip(*SETTINGS, strict=True)
    heads = Heads(first(dtype).clone(), lr=lrs, weight_decay=decays, momentum=0.9)
    losses, hits = zip(
        *(heads.step(x, y, 1.0 if step < 10 else 0.1) for step, (x, y) in enumerate(data(dtype))), strict=True
    )
    return heads, list(losses), list(hits)


def alone(dtype: torch.dtype, head: int) -> tuple[nn.Linear, list[float], list[int]]:
    """A plain loop with autograd and torch's SGD, one head alone."""
    lr, decay = SETTINGS[head]
    fc = nn.Linear(D, C, dtype=dtype)
    fc.weight.data.copy_(first(dtype)[head])
    nn.init.zeros_(fc.bias)
    sgd = torch.optim.SGD(fc.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    losses, hits = [], []
    for step, (x, y) in enumerate(data(dtype)):
        sgd.param_groups[0]["lr"] = lr if step < 10 else lr * 0.1
        logits = fc(x)
        loss = nn.functional.cross_entropy(logits, y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        hits.append(int((logits.argmax(1) == y).sum()))
    return fc, losses, hits


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["64", "32"])
def test_every_head_equals_itself_trained_alone(dtype: torch.dtype, bound: float) -> None:
    heads, losses, hits = batched(dtype)
    for head in range(len(SETTINGS)):
        fc, expected, right = alone(dtype, head)
        # lr 30 makes weights of order 100: the bound is relative to the largest.
        size = max(1.0, float(fc.weight.detach().abs().max()))
        assert float((heads.weight[head] - fc.weight.detach()).abs().max()) <= bound * size
        assert float((heads.bias[head] - fc.bias.detach()).abs().max()) <= bound * size
        assert [float(loss[head]) for loss in losses] == pytest.approx(expected, rel=max(bound, 1e-9), abs=bound)
        assert [int(hit[head]) for hit in hits] == right


def test_a_head_that_diverges_leaves_the_others_alone() -> None:
    heads = Heads(first(torch.float32)[:2].clone(), lr=(1e38, 0.1), weight_decay=(0.0, 0.0), momentum=0.9)
    for x, y in data(torch.float32):
        heads.step(x, y)
    assert heads.finite().tolist() == [False, True]
    single = Heads(first(torch.float32)[1:2].clone(), lr=(0.1,), weight_decay=(0.0,), momentum=0.9)
    for x, y in data(torch.float32):
        single.step(x, y)
    torch.testing.assert_close(heads.weight[1], single.weight[0])


def test_rank_puts_the_lower_class_first_among_equals() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert rank(logits).tolist() == [[1, 2, 4, 0, 3], [0, 1, 2, 3, 4]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(2, 8), st.integers(0, 99))
def test_the_place_of_a_label_is_where_the_ranking_has_it(n: int, heads: int, classes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    # Small integers: many logits are equal.
    weight = torch.from_numpy(draw.integers(-1, 2, (heads, classes, 2)).astype(np.float32))
    features = torch.from_numpy(draw.integers(-1, 2, (n, 2)).astype(np.float32))
    labels = torch.from_numpy(draw.integers(0, classes, n))
    each = Heads(weight, lr=[1.0] * heads, weight_decay=[0.0] * heads, momentum=0.0)
    places = each.places(features, labels)
    for head in range(heads):
        order = np.argsort(-(features @ weight[head].T).numpy(), axis=1, kind="stable")
        expected = [list(order[row]).index(int(labels[row])) for row in range(n)]
        assert places[:, head].tolist() == expected
        assert each.rank(features, head).tolist() == order[:, :5].tolist()
