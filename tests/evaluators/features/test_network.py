"""Layers in one pass against torchvision's own forward, watched by hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from evaluators.features.layers import EMBEDDING, POOLED, Layer
from evaluators.features.network import TOLERANCE, prepare

GRIDS = (
    Layer(stage="stem", pool=(5, 5, 2)),
    Layer(stage="res2", pool=(4, 3, 1)),
    Layer(stage="res3", pool=(2, 1, 0)),
    Layer(stage="res4", pool=(1, 1, 0)),
    Layer(stage="res3"),
    POOLED,
)
WATCHED = {"stem": "relu", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


def images(n: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 48, 32, generator=torch.Generator().manual_seed(seed))


def averaged(stage_map: NDArray[np.float64], pool: tuple[int, int, int] | None) -> NDArray[np.float64]:
    """The pooling, window by window: zeros around the map count."""
    if pool is None:
        return stage_map.mean(axis=(2, 3))
    kernel, stride, padding = pool
    padded = np.pad(stage_map, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = ((side - kernel) // stride + 1 for side in padded.shape[2:])
    cells = [
        padded[:, :, y * stride : y * stride + kernel, x * stride : x * stride + kernel].sum(axis=(2, 3)) / kernel**2
        for y in range(height)
        for x in range(width)
    ]
    return np.stack(cells, axis=2).reshape(len(stage_map), -1)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_layers_are_those_that_hooks_see(arch: str) -> None:
    module = random_backbone(arch, 0).module()
    head = nn.Linear(module.get_parameter("layer4.1.bn1.weight").numel() * (4 if arch == "resnet50" else 1), 7)
    seen: dict[str, NDArray[np.float64]] = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _module, _input, output, stage=stage: seen.__setitem__(stage, output.double().numpy().copy())
        )
        for stage, name in WATCHED.items()
    ]
    with torch.inference_mode():
        pooled = module(images())
        embedded = head(pooled)
    for hook in hooks:
        hook.remove()

    net = prepare(module, head, (*GRIDS, EMBEDDING), precision="fp32", sample=images(2, seed=1))
    with torch.inference_mode():
        *found, embedding = net(images())
    assert net.folded
    assert 0 < net.deviation <= TOLERANCE
    assert net.dims == (*(output.shape[1] for output in found), 7)
    for layer, output in zip(GRIDS, found, strict=True):
        expected = averaged(seen[layer.stage], layer.pool)
        assert output.shape == expected.shape
        assert np.abs(output.numpy() - expected).max() <= 1e-5 * np.abs(expected).max(), layer
    torch.testing.assert_close(found[-1], pooled, rtol=1e-4, atol=1e-5 * float(pooled.abs().max()))
    torch.testing.assert_close(embedding, embedded, rtol=1e-3, atol=1e-5)


def test_the_module_itself_is_left_alone() -> None:
    backbone = random_backbone("resnet18", 0)
    module = backbone.module()
    prepare(module, None, (POOLED,), precision="bf16", sample=images(1)[:, :, :32])
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, backbone.tensors[name])
    assert module.get_parameter("conv1.weight").is_contiguous()


def test_only_the_stages_asked_for_are_computed() -> None:
    module = random_backbone("resnet18", 0).module()
    net = prepare(module, None, (Layer(stage="res2"),), precision="fp32", sample=images(1))
    del module.layer3, module.layer4
    net.module.trunk.layer3 = net.module.trunk.layer4 = None
    assert net(images())[0].shape == (3, 64)


def test_bn_that_cannot_be_folded_exactly_stays() -> None:
    """Inputs far from 0: behind the first convolution lie 147,000 ± 12, which a folded bias must cancel in float32."""
    module = random_backbone("resnet18", 0).module()
    with torch.no_grad():
        module.get_parameter("conv1.weight").fill_(1.0)
        module.get_buffer("bn1.running_mean").fill_(147_000.0)
    net = prepare(module, None, (POOLED,), precision="fp32", sample=1000 + images(2))
    assert not net.folded
    assert net.deviation > TOLERANCE
    assert isinstance(net.module.trunk.bn1, nn.BatchNorm2d)


def test_bf16_is_near_and_comes_back_as_float32() -> None:
    module = random_backbone("resnet18", 0).module()
    square = images()[:, :, :32]
    exact, rough = (
        prepare(module, None, (POOLED,), precision=precision, sample=square)(square)[0]
        for precision in ("fp32", "bf16")
    )
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.cosine_similarity(exact, rough).min() > 0.999


def test_bf16_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library's kernel that reads beyond its map."""
    plain = torch.nn.Conv2d.forward
    wrong = lambda self, x: plain(self, x).roll(1, dims=1) if x.dtype == torch.bfloat16 else plain(self, x)  # noqa: E731
    monkeypatch.setattr(torch.nn.Conv2d, "forward", wrong)
    with pytest.raises(CheckFailed, match=r"layer res5 in bf16: .* use --set precision=fp32"):
        prepare(random_backbone("resnet18", 0).module(), None, (POOLED,), precision="bf16", sample=images())


@pytest.mark.parametrize("pool", [(3, 1, 0), (1, 1, 1)])
def test_a_pooling_larger_than_the_map(pool: tuple[int, int, int]) -> None:
    module = random_backbone("resnet18", 0).module()
    layer = Layer(stage="res5", pool=pool)
    with pytest.raises(UserError, match=r"layer res5: expected a map that an average pooling of kernel .* found 2x1"):
        prepare(module, None, (layer,), precision="fp32", sample=images(1))
