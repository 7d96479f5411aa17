"""MoCo against the independent Algorithm 1, alone and in real groups."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters.errors import UserError
from pretrain.checkpoint import without_prefix
from pretrain.model import MoCo, check_queue
from tests import checkpoints
from tests.distributed import run_ranks
from tests.reference.moco_algorithm1 import Algorithm1

# 33 pixels leave 2×2 positions in the last stage, so 16 values a channel to each process's smallest BN: with 4 (32
# pixels), rounding alone grows fourfold a step.
DIM, K, M, T, LR, BATCH, SIZE = 16, 32, 0.99, 0.2, 0.003, 8, 33


def made(mlp: bool, world: int, dtype: torch.dtype) -> tuple[Algorithm1, MoCo]:
    """Both implementations in the same state; their key encoders differ from their query encoders."""
    torch.manual_seed(0)
    naive = Algorithm1("resnet18", dim=DIM, K=K, m=M, T=T, mlp=mlp, world=world, lr=LR).to(dtype)
    for value in naive.f_k[0].parameters():
        value.data.add_(torch.randn_like(value), alpha=0.01)
    for encoder in naive.f_k[1:]:
        encoder.load_state_dict(naive.f_k[0].state_dict())
    ours = MoCo("resnet18", DIM, K, momentum=M, temperature=T, mlp=mlp).to(dtype)
    ours.load_state_dict(naive.state_dict(), strict=True)
    return naive, ours


def images(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    im_q, im_k = torch.randn(2, BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return im_q, im_k


def assert_same_steps(rank: int, world: int, *, mlp: bool, dtype: torch.dtype, steps: int, bound: float) -> None:
    naive, ours = made(mlp, world, dtype)
    network: nn.Module = DistributedDataParallel(ours) if dist.is_initialized() else ours
    optimizer = torch.optim.SGD(ours.parameters(), LR, momentum=0.9, weight_decay=1e-4)
    N = BATCH // world
    mine = slice(rank * N, (rank + 1) * N)
    for step in range(steps):
        im_q, im_k = images(step, dtype)
        torch.manual_seed(step + 1000 * rank)  # the permutation must be rank 0's
        logits, labels = network(im_q[mine], im_k[mine])
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        # Rank 0 runs the slow implementation for all.
        expected, losses = torch.empty(BATCH, 1 + K, dtype=dtype), torch.empty(world, dtype=dtype)
        if rank == 0:
            torch.manual_seed(step)
            expected, losses = naive.step(im_q, im_k, torch.randperm(BATCH))
            state, wanted = ours.state_dict(), naive.state_dict()
            assert state.keys() == wanted.keys()
            for name, value in wanted.items():
                assert (state[name] - value).abs().max() <= bound, (step, name)
        queue = ours.queue.clone()
        if dist.is_initialized():
            for tensor in (expected, losses, queue):
                dist.broadcast(tensor, src=0)
        assert labels.tolist() == [0] * N
        assert (logits - expected[mine]).abs().max() <= bound, step
        assert abs(loss - losses[rank]) <= bound, step
        assert torch.equal(queue, ours.queue), step


def test_ten_steps_equal_algorithm_1_in_float64() -> None:
    assert_same_steps(0, 1, mlp=True, dtype=torch.float64, steps=10, bound=1e-10)


def test_one_step_equals_algorithm_1_in_float32() -> None:
    assert_same_steps(0, 1, mlp=False, dtype=torch.float32, steps=1, bound=1e-4)


def same_in_a_group(rank: int, world: int) -> None:
    # Three steps of the reference's interface; test_step has ten of the training step.
    assert_same_steps(rank, world, mlp=False, dtype=torch.float64, steps=3, bound=1e-10)
    assert_same_steps(rank, world, mlp=True, dtype=torch.float32, steps=1, bound=1e-4)


def test_two_processes_equal_algorithm_1() -> None:
    run_ranks(same_in_a_group, 2, 2)


def test_a_group_of_one_is_a_real_group(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        assert_same_steps(0, 1, mlp=False, dtype=torch.float32, steps=1, bound=1e-4)
    finally:
        dist.destroy_process_group()


def test_the_momentum_update_comes_first_and_leaves_batch_statistics_alone() -> None:
    torch.manual_seed(0)
    model = MoCo("resnet18", DIM, K, momentum=0.0, mlp=True)
    for value in model.encoder_k.parameters():
        value.data.normal_()
    im_q, im_k = images(0, torch.float32)
    model(im_q, im_k)
    # m = 0 makes the key encoder equal to the query encoder before the keys are made: its statistics are those of a
    # copy of the query encoder that has seen the key images once.
    for (name, q), k in zip(model.encoder_q.named_parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(q, k), name
    witness = MoCo("resnet18", DIM, K, mlp=True).encoder_q
    witness.load_state_dict({**model.encoder_q.state_dict(), **_fresh_statistics(witness)})
    witness(im_k)
    for name, value in witness.named_buffers():
        assert torch.allclose(model.encoder_k.get_buffer(name), value, rtol=1e-4, atol=1e-5), name
    assert not torch.allclose(
        model.encoder_k.get_buffer("bn1.running_mean"), model.encoder_q.get_buffer("bn1.running_mean")
    )


def _fresh_statistics(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.named_buffers()}


def test_the_key_encoder_gets_no_gradient() -> None:
    model = MoCo("resnet18", DIM, K)
    logits, labels = model(*images(0, torch.float32))
    F.cross_entropy(logits, labels).backward()
    assert all(value.grad is not None for value in model.encoder_q.parameters())
    assert all(value.grad is None and not value.requires_grad for value in model.encoder_k.parameters())


@pytest.mark.parametrize(("mlp", "tensors"), [(False, 642), (True, 646)])
def test_resnet50_has_the_references_tensors(mlp: bool, tensors: int) -> None:
    with torch.device("meta"):
        state = MoCo("resnet50", mlp=mlp).state_dict()
    assert len(state) == tensors
    assert {name.split(".")[0] for name in state} == {"encoder_q", "encoder_k", "queue", "queue_ptr"}
    assert state["queue"].shape == (128, 65536)
    assert state["queue_ptr"].shape == (1,)
    heads = {name: tuple(value.shape) for name, value in state.items() if name.startswith("encoder_k.fc")}
    if mlp:
        assert heads == {
            "encoder_k.fc.0.weight": (2048, 2048),
            "encoder_k.fc.0.bias": (2048,),
            "encoder_k.fc.2.weight": (128, 2048),
            "encoder_k.fc.2.bias": (128,),
        }
    else:
        assert heads == {"encoder_k.fc.weight": (128, 2048), "encoder_k.fc.bias": (128,)}


@pytest.mark.parametrize("mlp", [False, True])
def test_a_checkpoint_of_the_reference_loads(mlp: bool) -> None:
    state = checkpoints.moco(v2=mlp)["state_dict"]
    model = MoCo("resnet18", queue_size=64, mlp=mlp)
    model.load_state_dict(without_prefix(state), strict=True)
    assert torch.equal(model.encoder_k.get_parameter("conv1.weight"), state["module.encoder_k.conv1.weight"])


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(UserError, match="resnet18"):
        MoCo("resnet19")


def test_the_queue_starts_with_unit_columns() -> None:
    assert torch.allclose(MoCo("resnet18", DIM, K).queue.norm(dim=0), torch.ones(K))


@given(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=12))
@settings(deadline=None, max_examples=20)
def test_the_queue_holds_the_last_keys(sizes: list[int]) -> None:
    """Whatever batches came, also after a resume with another batch size, against a deque."""
    model = QUEUE_MODEL
    model.queue.zero_()
    model.queue_ptr.zero_()
    expected = deque([0.0] * K, maxlen=K)
    count = 0
    for size in sizes:
        keys = torch.arange(count + 1, count + size + 1).float()
        model._enqueue(keys[:, None].expand(size, DIM))
        expected.extend(keys.tolist())
        count += size
    pointer = int(model.queue_ptr)
    assert pointer == count % K
    assert model.queue[0].roll(-pointer).tolist() == list(expected)
    assert torch.equal(model.queue, model.queue[:1].expand(DIM, K))


QUEUE_MODEL = MoCo("resnet18", DIM, K)


@given(st.integers(1, 5000), st.integers(1, 5000))
@settings(deadline=None)
def test_a_queue_is_accepted_exactly_when_the_batch_divides_it(queue_size: int, batch_size: int) -> None:
    if queue_size % batch_size == 0:
        check_queue(queue_size, batch_size)
        return
    with pytest.raises(UserError) as caught:
        check_queue(queue_size, batch_size)
    assert caught.value.cure is not None
    size, batch = (int(word.partition("=")[2]) for word in caught.value.cure.split() if "=" in word)
    assert size % batch_size == 0
    assert queue_size % batch == 0


def test_a_step_whose_batch_does_not_divide_the_queue_is_refused() -> None:
    model = MoCo("resnet18", DIM, 30)
    with pytest.raises(UserError, match="queue_size=32 or batch_size=6"):
        model(*images(0, torch.float32))
