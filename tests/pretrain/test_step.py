"""The training step against the independent Algorithm 1: processes, BN groups, parts, precision."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain import mechanisms
from pretrain.model import MoCo
from pretrain.recipes import QUICKSTART_MOCO_V1, Recipe
from pretrain.step import Step
from tests.distributed import run_ranks
from tests.reference.moco_algorithm1 import Algorithm1

# 33 pixels leave 2×2 positions in the last stage: enough values for each group's smallest BN (see test_model).
DIM, K, BATCH, SIZE = 16, 32, 8, 33
RECIPE = QUICKSTART_MOCO_V1.overridden(
    (
        f"dim={DIM}",
        f"queue_size={K}",
        f"batch_size={BATCH}",
        "bn_groups=1",
        "momentum=0.99",
        "temperature=0.2",
        "lr=0.096",
    )
)


def made(recipe: Recipe, groups: int, world: int, dtype: torch.dtype) -> tuple[Algorithm1, Step]:
    """The slow implementation with a process for each BN group, and ours, in the same state."""
    torch.manual_seed(0)
    naive = Algorithm1(
        recipe.arch,
        dim=DIM,
        K=K,
        m=recipe.momentum,
        T=recipe.temperature,
        mlp=recipe.mlp,
        world=groups,
        lr=recipe.base_lr,
    ).to(dtype)
    for value in naive.f_k[0].parameters():
        value.data.add_(torch.randn_like(value), alpha=0.01)
    for encoder in naive.f_k[1:]:
        encoder.load_state_dict(naive.f_k[0].state_dict())
    ours = mechanisms.build(recipe, images=1, bn_groups=groups // world).to(dtype)
    ours.load_state_dict(naive.state_dict(), strict=True)
    return naive, Step(ours, recipe)


def images(number: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    im_q, im_k = torch.randn(2, BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return im_q, im_k


def assert_same_steps(
    recipe: Recipe, groups: int, rank: int = 0, world: int = 1, *, dtype: torch.dtype, steps: int, bound: float
) -> None:
    naive, step = made(recipe, groups, world, dtype)
    N = BATCH // world
    mine = slice(rank * N, (rank + 1) * N)
    for number in range(steps):
        im_q, im_k = images(number, dtype)
        generator = torch.Generator().manual_seed(number)  # in the same state in every process
        measured = step(im_q[mine], im_k[mine], torch.arange(BATCH)[mine], generator).double()
        if dist.is_initialized():
            dist.all_reduce(measured)
        loss, top1, top5 = (measured / world).tolist()
        queue = step.mechanism.get_buffer("queue").clone()
        if rank == 0:  # runs the slow implementation for all
            permutation = torch.randperm(BATCH, generator=torch.Generator().manual_seed(number))
            logits, losses = naive.step(im_q, im_k, permutation)
            # Ours reports the loss in fp32.
            assert loss == pytest.approx(losses.mean().item(), abs=max(bound, 2e-6)), number
            order = logits.argsort(dim=1, descending=True)
            assert top1 == pytest.approx(100 * (order[:, :1] == 0).any(dim=1).double().mean().item()), number
            assert top5 == pytest.approx(100 * (order[:, :5] == 0).any(dim=1).double().mean().item()), number
            state, wanted = step.mechanism.state_dict(), naive.state_dict()
            assert state.keys() == wanted.keys()
            for name, value in wanted.items():
                assert (state[name] - value).abs().max() <= bound, (number, name)
        if dist.is_initialized():
            dist.broadcast(queue, src=0)
        assert torch.equal(queue, step.mechanism.get_buffer("queue")), number


@pytest.mark.parametrize(
    ("sets", "groups", "steps"),
    [
        ((), 1, 10),
        (("mlp=true",), 1, 5),  # one more than fill the queue
        (("bn_groups=4",), 4, 5),
        (("bn_groups=2", "accumulate=2"), 2, 5),
        (("bn_groups=4", "accumulate=2"), 4, 5),
    ],
)
def test_steps_equal_algorithm_1_in_float64(sets: tuple[str, ...], groups: int, steps: int) -> None:
    """With G groups on one process, or in parts, as Algorithm 1 in G processes."""
    assert_same_steps(RECIPE.overridden(sets), groups, dtype=torch.float64, steps=steps, bound=1e-10)


@pytest.mark.parametrize("sets", [(), ("channels_last=true",)])
def test_one_step_equals_algorithm_1_in_float32(sets: tuple[str, ...]) -> None:
    assert_same_steps(RECIPE.overridden(sets), 1, dtype=torch.float32, steps=1, bound=1e-4)


def same_in_a_group(rank: int, world: int) -> None:
    for sets, groups in (((), 2), (("bn_groups=4", "accumulate=2", "mlp=true"), 4)):
        recipe = RECIPE.overridden(sets)
        assert_same_steps(recipe, groups, rank, world, dtype=torch.float64, steps=10, bound=1e-10)
    assert_same_steps(RECIPE, 2, rank, world, dtype=torch.float32, steps=1, bound=1e-4)
    mixed = Step(made(RECIPE, 2, world, torch.float32)[1].mechanism, RECIPE.overridden(("precision=bf16",)))
    im_q, im_k = (view[rank * 4 : rank * 4 + 4] for view in images(0))
    assert torch.isfinite(mixed(im_q, im_k, torch.arange(4), torch.Generator())).all()


def test_two_processes_equal_algorithm_1() -> None:
    run_ranks(same_in_a_group, 2, 2)


class HostReads(TorchDispatchMode):
    """Collects what makes the host wait for a device."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        # What was on the host from the beginning, as the permutation, keeps no device busy.
        if any(wait in name for wait in self.WAITS) and not _all_integers(args):
            self.met.append(name)
        return func(*args, **(kwargs or {}))


def _all_integers(args: tuple[Any, ...]) -> bool:
    tensors = [value for value in args if isinstance(value, Tensor)]
    return all(not value.is_floating_point() for value in tensors)


def test_no_value_of_the_step_is_read_on_the_host() -> None:
    step = made(RECIPE, 1, 1, torch.float32)[1]
    im_q, im_k = images(0)
    with HostReads() as reads:
        measured = step(im_q, im_k, torch.arange(BATCH), torch.Generator())
        assert reads.met == []
        measured[0].item()
    assert reads.met == ["_local_scalar_dense"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_follows_full_precision(precision: str) -> None:
    """One step from an equal state, within the rounding of the format (2^-8 and 2^-11) over a ResNet-18's depth."""
    full = made(RECIPE, 1, 1, torch.float32)[1]
    low = Step(made(RECIPE, 1, 1, torch.float32)[1].mechanism, RECIPE.overridden((f"precision={precision}",)))
    low.scaler.load_state_dict({**low.scaler.state_dict(), "scale": 256.0}) if precision == "fp16" else None
    im_q, im_k = images(0)
    one, other = (s(im_q, im_k, torch.arange(BATCH), torch.Generator().manual_seed(0)) for s in (full, low))
    assert one[0].item() == pytest.approx(other[0].item(), rel=0.02)
    keys = [s.mechanism.get_buffer("queue")[:, :BATCH] for s in (full, low)]
    assert (keys[0] * keys[1]).sum(dim=0).min() > 0.99
    assert keys[1].dtype == torch.float32
    moved = [s.mechanism.encoder_q.get_parameter("layer1.0.conv1.weight") for s in (full, low)]
    assert moved[1].dtype == torch.float32
    assert torch.allclose(*moved, atol=2e-3)


def test_a_step_that_fp16_overflows_in_is_left_out() -> None:
    """The scale begins so high that gradients are infinite; it halves until they are not, and nothing is ruined."""
    step = Step(made(RECIPE, 1, 1, torch.float32)[1].mechanism, RECIPE.overridden(("precision=fp16",)))
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 2.0**40})
    before = step.mechanism.encoder_q.get_parameter("conv1.weight").clone()
    im_q, im_k = images(0)
    losses = [step(im_q, im_k, torch.arange(BATCH), torch.Generator().manual_seed(0))[0].item()]
    assert torch.equal(step.mechanism.encoder_q.get_parameter("conv1.weight"), before)
    assert all(step.optimizer.state[p]["momentum_buffer"].abs().max() == 0 for _, p in step.trained())
    losses += [step(*images(n), torch.arange(BATCH), torch.Generator())[0].item() for n in range(1, 40)]
    assert all(map(math.isfinite, losses))
    assert step.scaler.get_scale() < 2.0**40
    assert not torch.equal(step.mechanism.encoder_q.get_parameter("conv1.weight"), before)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_compiled_encoders_take_the_same_step() -> None:
    plain = made(RECIPE, 1, 1, torch.float32)[1]
    compiled = Step(made(RECIPE, 1, 1, torch.float32)[1].mechanism, RECIPE.overridden(("compile=true",)))
    im_q, im_k = images(0)
    one, other = (s(im_q, im_k, torch.arange(BATCH), torch.Generator().manual_seed(0)) for s in (plain, compiled))
    assert torch.allclose(one, other, atol=1e-4)
    assert compiled.mechanism.state_dict().keys() == plain.mechanism.state_dict().keys()
    for name, value in plain.mechanism.state_dict().items():
        assert (value.double() - compiled.mechanism.state_dict()[name].double()).abs().max() < 1e-4, name


def test_the_optimizer_moves_everything_by_weight_decay() -> None:
    """SGD over all parameters, BN and biases included (facebookresearch/moco@7397dfe, main_moco.py)."""
    step = made(RECIPE, 1, 1, torch.float32)[1]
    (group,) = step.optimizer.param_groups
    assert group["weight_decay"] == 1e-4
    assert isinstance(step.mechanism, MoCo)
    assert len(group["params"]) == len(list(step.mechanism.parameters()))
    before = nn.utils.parameters_to_vector(step.mechanism.encoder_k.parameters()).clone()
    step(*images(0), torch.arange(BATCH), torch.Generator())
    after = nn.utils.parameters_to_vector(step.mechanism.encoder_k.parameters())
    assert not torch.equal(before, after)  # by the momentum update alone: it has no gradient
    assert all(parameter.grad is None for parameter in step.mechanism.encoder_k.parameters())
