"""Memory bank and end-to-end against slow implementations, alone and in a group."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain import mechanisms
from pretrain.mechanisms import MemoryBank
from pretrain.recipes import QUICKSTART_MOCO_V1, Recipe
from pretrain.step import Step
from tests.distributed import run_ranks
from tests.reference.mechanisms_naive import EndToEndNaive, MemoryBankNaive

DIM, K, BATCH, SIZE, IMAGES, STEPS = 16, 12, 8, 33, 20, 5


def recipe(mechanism: str, *sets: str) -> Recipe:
    common = (
        f"dim={DIM}",
        f"queue_size={K}",
        f"batch_size={BATCH}",
        "bn_groups=1",
        "momentum=0.5",
        "temperature=0.2",
        "lr=0.096",
    )
    return QUICKSTART_MOCO_V1.overridden((f"mechanism={mechanism}", *common, *sets))


def views(step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    im_q, im_k = torch.randn(2, BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return im_q, im_k, torch.randperm(IMAGES, generator=generator)[:BATCH]


def assert_same_steps(chosen: Recipe, groups: int, rank: int = 0, world: int = 1) -> None:
    torch.manual_seed(0)
    ours = mechanisms.build(chosen, images=IMAGES, bn_groups=groups // world).double()
    common = {"dim": DIM, "T": chosen.temperature, "world": groups, "lr": chosen.base_lr}
    naive: EndToEndNaive | MemoryBankNaive
    if isinstance(ours, MemoryBank):
        naive = MemoryBankNaive(chosen.arch, bank=ours.bank, m=chosen.momentum, **common)
    else:
        naive = EndToEndNaive(chosen.arch, **common)
    for encoder in naive.encoders:
        encoder.load_state_dict(ours.encoder_q.state_dict())
    step = Step(ours, chosen)
    N = BATCH // world
    mine = slice(rank * N, (rank + 1) * N)
    for number in range(STEPS):
        im_q, im_k, numbers = views(number)
        measured = step(im_q[mine], im_k[mine], numbers[mine], torch.Generator().manual_seed(number)).double()
        if dist.is_initialized():
            dist.all_reduce(measured)
        if rank:
            continue  # rank 0 runs the slow implementation for all
        drawn = torch.Generator().manual_seed(number)
        if isinstance(naive, MemoryBankNaive):
            loss = naive.step(im_q, numbers.tolist(), torch.randint(IMAGES, (K,), generator=drawn).tolist())
            assert torch.allclose(ours.get_buffer("bank"), torch.stack(naive.bank), atol=1e-10), number
        else:
            loss = naive.step(im_q, im_k, torch.randperm(BATCH, generator=drawn))
        assert (measured[0] / world).item() == pytest.approx(loss, abs=2e-6), number
        for name, value in naive.encoders[0].state_dict().items():
            assert (ours.encoder_q.state_dict()[name] - value).abs().max() <= 1e-10, (number, name)


CASES = [
    ("memory-bank", (), 1),
    ("memory-bank", ("bn_groups=4", "accumulate=2"), 4),
    ("end-to-end", (), 1),
    ("end-to-end", ("bn_groups=2",), 2),
]


@pytest.mark.parametrize(("mechanism", "sets", "groups"), CASES)
def test_steps_equal_the_written_out_ones(mechanism: str, sets: tuple[str, ...], groups: int) -> None:
    assert_same_steps(recipe(mechanism, *sets), groups)


def same_in_a_group(rank: int, world: int) -> None:
    for mechanism in ("memory-bank", "end-to-end"):
        assert_same_steps(recipe(mechanism), 2, rank, world)


def test_two_processes_take_the_same_steps() -> None:
    run_ranks(same_in_a_group, 2, 2)


@pytest.mark.parametrize(
    ("mechanism", "names"),
    [("memory-bank", {"encoder_q", "bank"}), ("end-to-end", {"encoder_q", "encoder_k"})],
)
def test_states_have_the_references_names(mechanism: str, names: set[str]) -> None:
    with torch.device("meta"):
        state = mechanisms.build(recipe(mechanism), images=IMAGES, bn_groups=1).state_dict()
    assert {name.split(".")[0] for name in state} == names


def test_an_image_that_comes_twice_keeps_its_last_entry() -> None:
    torch.manual_seed(0)
    bank = MemoryBank("resnet18", IMAGES, DIM, K)
    numbers = torch.tensor([3, 7, 3, 1])
    targets = bank.begin(torch.zeros(4, 3, 8, 8), numbers, torch.Generator())
    targets.seen.append(torch.nn.functional.normalize(torch.randn(4, DIM), dim=1))
    expected = bank.bank.clone()
    for number, before, q in zip(numbers, targets.positives, targets.seen[0], strict=True):
        expected[number] = torch.nn.functional.normalize(0.5 * before + 0.5 * q, dim=0)
    bank.end(targets)
    assert torch.allclose(bank.bank, expected)


def test_low_precision_does_not_reach_the_similarities_of_end_to_end() -> None:
    chosen = recipe("end-to-end", "precision=bf16")
    torch.manual_seed(0)
    model = mechanisms.build(chosen, images=None, bn_groups=1)
    im_q, im_k, numbers = (part.float() if part.is_floating_point() else part for part in views(0))
    targets = model.begin(im_k, numbers, torch.Generator())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.contrast(im_q, targets, 0).loss
    assert loss.dtype == torch.float32
    rounded = loss.detach().bfloat16().float()
    assert loss.item() != rounded.item()
