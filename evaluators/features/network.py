"""The frozen backbone as it computes features: several layers in one pass, and BN folded where that is proved.

A copy of the receipted module does the work. In eval mode a BN is an affine map, which the convolution before it can
take over: w γ/√(v + ε) and β - m γ/√(v + ε). The copy must give what the module gives before it is used, and must be
the same copy, bit for bit, when its work is done.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from converters.errors import CheckFailed, UserError
from converters.fingerprint import fingerprint
from evaluators.features.layers import POOLED, Layer

TOLERANCE = 1e-5
"""Largest allowed |Δ| of a layer between the folded copy and the module, relative to the layer's largest value.

Folding rounds each weight once more (2^-24, relative) and changes the order of sums; over the 53 convolutions of a
ResNet-50 that is about 1e-6. A BN whose variance is almost 0 scales its weights by orders of magnitude and can exceed
the bound: then a copy without folding is used. It is the bound of `converters.parity`, for the same reason."""
LIKENESS = 0.99
"""Least cosine of a layer in bf16 to the same in fp32, on every image of the sample. A sound bf16 gives 0.9999 (weights
and maps are rounded to 8 bits); oneDNN 3.13 gives rubbish for some maps of few pixels on a CPU with AMX."""
SLICE = 16
"""Images that go through the network at a time on a CPU, where larger maps fall out of the cache."""

_STAGES = ("stem", "res2", "res3", "res4", "res5")


class Layers(nn.Module):
    """A torchvision ResNet without a head -> some of its layers.

    Args:
        trunk: the ResNet.
        head: D -> 128 on pooled res5, for a layer `head`.
        layers: what to give.
        dtype: in which the trunk computes; pooling and head compute in float32.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Module | None, layers: Sequence[Layer], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.layers, self.dtype = trunk, head, tuple(layers), dtype
        stages = ["res5" if layer.stage == "head" else layer.stage for layer in self.layers]
        self.deepest = max(_STAGES.index(stage) for stage in stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """B×3×H×W, normalised -> for each layer B×D in float32.

        Raises:
            UserError: if a layer's map is smaller than its pooling's kernel.
        """
        trunk: Any = self.trunk
        found: dict[Layer, Tensor] = {}
        x = images.to(self.dtype)
        for depth, stage in enumerate(_STAGES[: self.deepest + 1]):
            if depth == 0:
                x = trunk.relu(trunk.bn1(trunk.conv1(x)))
            else:
                x = getattr(trunk, f"layer{depth}")(trunk.maxpool(x) if depth == 1 else x)
            for layer in self.layers:
                if layer.stage == stage:
                    found[layer] = pooled(x.float(), layer)
                elif layer.stage == "head" and stage == "res5":
                    assert self.head is not None, "a layer `head` needs a head"
                    found[layer] = self.head(pooled(x.float(), POOLED))
        return tuple(found[layer] for layer in self.layers)


def pooled(stage_map: Tensor, layer: Layer) -> Tensor:
    """A map B×C×H×W -> B×D: the global average, or an average pooling whose map is flattened in the order C, H, W.

    Raises:
        UserError: if the map is smaller than the pooling's kernel.
    """
    if layer.pool is None:
        return F.adaptive_avg_pool2d(stage_map, 1).flatten(1)
    kernel, stride, padding = layer.pool
    height, width = stage_map.shape[2:]
    if min(height, width) + 2 * padding < kernel or 2 * padding > kernel:
        raise UserError(
            expected=f"a map that an average pooling of kernel {kernel}, stride {stride}, padding {padding} fits",
            found=f"{height}x{width}",
            where=f"layer {layer.stage}",
            cure="enlarge the crop, or reduce the kernel or the padding",
        )
    return F.avg_pool2d(stage_map, kernel, stride, padding).flatten(1)


@dataclass(frozen=True, eq=False)
class Network:
    """What computes the features."""

    module: Layers
    dims: tuple[int, ...]
    """D of each layer."""
    folded: bool
    """Whether BN is folded into the convolutions."""
    deviation: float
    """Largest relative |Δ| of the folded copy on the sample (see `TOLERANCE`), whether it was used or not."""
    sample: Tensor
    """B×3×H×W, on which the copy was held against the module."""
    outputs: tuple[Tensor, ...]
    """What it gave for them then."""
    fingerprint: str
    """Of its tensors then."""

    @classmethod
    def of(cls, module: Layers, sample: Tensor, *, folded: bool, deviation: float) -> Network:
        """Note the module's tensors, and what it gives for the sample."""
        outputs = _run(module, sample)
        dims = tuple(output.shape[1] for output in outputs)
        return cls(module, dims, folded, deviation, sample, outputs, fingerprint(module.state_dict()))

    def prove_unchanged(self) -> None:
        """Prove that what computes now is what was held against the module.

        Raises:
            CheckFailed: if a single bit of its tensors, or of what it gives for the sample, changed.
        """
        after = fingerprint(self.module.state_dict())
        if after != self.fingerprint:
            raise CheckFailed(
                "receipt: the copy of the frozen backbone that computes features changed during the evaluation: "
                f"expected the fingerprint {self.fingerprint[:12]}, found {after[:12]}"
            )
        for layer, before, now in zip(self.module.layers, self.outputs, self(self.sample), strict=True):
            if not torch.equal(before, now):
                raise CheckFailed(
                    "receipt: the copy of the frozen backbone computes something else than before the evaluation: "
                    f"expected the same features of {len(before)} images, bit for bit, found others (layer "
                    f"{layer.stage}, relative |Δ| {_deviation(before, now):.1e})"
                )

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """B×3×H×W -> for each layer B×D in float32, on the same device."""
        return _run(self.module, images)


def _run(module: Layers, images: Tensor) -> tuple[Tensor, ...]:
    size = SLICE if images.device.type == "cpu" else len(images)
    with torch.inference_mode(), exact():
        slices = [module(part) for part in torch.split(images, size)]
        return tuple(torch.cat(parts) for parts in zip(*slices, strict=True))


def prepare(
    trunk: nn.Module, head: nn.Module | None, layers: Sequence[Layer], *, precision: str, sample: Tensor
) -> Network:
    """A network that gives these layers.

    Args:
        trunk: the receipted module, on its device, in eval mode. It is not changed.
        head: on the same device.
        layers: at least one.
        precision: `fp32`, or `bf16`: the convolutions' weights and maps in bfloat16.
        sample: B×3×H×W, the first images: the copy is held against the module on them.

    Raises:
        UserError: if a layer's map is smaller than its pooling's kernel.
        CheckFailed: if bf16 gives something else (see `LIKENESS`).
    """
    with torch.inference_mode(), exact():
        expected = Layers(trunk, head, layers)(sample)
        fast = folded(trunk).to(memory_format=torch.channels_last)
        found = Layers(fast, head, layers)(sample)
        deviation = max(_deviation(a, b) for a, b in zip(expected, found, strict=True))
        fits = deviation <= TOLERANCE
        used = fast if fits else copy.deepcopy(trunk).to(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        module = Layers(used.to(dtype), head, layers, dtype).eval().requires_grad_(requires_grad=False)
    net = Network.of(module, sample, folded=fits, deviation=deviation)
    if precision == "bf16":
        for layer, exactly, roughly in zip(layers, expected, net.outputs, strict=True):
            likeness = float(F.cosine_similarity(exactly, roughly).min())
            if not likeness >= LIKENESS and bool(exactly.any()):
                raise CheckFailed(
                    f"layer {layer.stage} in bf16: expected features like those in fp32 (cosine {LIKENESS} or more), "
                    f"found {likeness:.4f}; this machine computes it wrongly: use --set precision=fp32"
                )
    return net


def folded(trunk: nn.Module) -> nn.Module:
    """A copy of a torchvision ResNet in eval mode, its BN folded into the convolutions."""
    resnet: Any = copy.deepcopy(trunk).eval()
    _fold(resnet, "conv1", "bn1")
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        for block in stage:
            for number in (1, 2, 3):
                if hasattr(block, f"conv{number}"):
                    _fold(block, f"conv{number}", f"bn{number}")
            if block.downsample is not None:
                _fold(block.downsample, "0", "1")
    module: nn.Module = resnet
    return module


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    fused = fuse_conv_bn_eval(parent.get_submodule(convolution), parent.get_submodule(norm))  # type: ignore[type-var,arg-type]
    setattr(parent, convolution, fused)
    setattr(parent, norm, nn.Identity())


def _deviation(expected: Tensor, found: Tensor) -> float:
    """Largest |Δ| relative to the largest |value|; infinity where a value is not finite."""
    if not torch.isfinite(found).all() or not torch.isfinite(expected).all():
        return float("inf")
    largest = float(expected.abs().max())
    return float((expected - found).abs().max()) / largest if largest else 0.0


def exact() -> Any:
    """A context in which float32 convolutions on a GPU compute in float32, not in TF32, always by one algorithm."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
