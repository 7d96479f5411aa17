"""Batch normalisation over as many images as a protocol declares, however many processes share the batch.

Shapes: N images of this process, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from converters.distributed import rank, size


class DeclaredBatchNorm2d(nn.BatchNorm2d):
    """BN whose batch statistics are those of the declared images; in eval mode it is `nn.BatchNorm2d`.

    With `images` set, this process's batch consists of consecutive groups of so many images, the last perhaps smaller,
    each normalised apart; the running statistics follow the first group of the global batch alone, as
    `DistributedDataParallel` keeps those of rank 0. Without, all processes' images are one group (SyncBN, on any
    device), and a process without an image takes part.
    """

    images: int | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.BatchNorm2d gives it
        """N×C×H×W -> N×C×H×W."""
        if not self.training:
            return super().forward(input)
        if self.images is None:
            return super().forward(input) if size() == 1 else self._across(input)
        if not len(input):
            return input
        groups = torch.split(input, self.images)
        first = super().forward(groups[0]) if rank() == 0 else self._apart(groups[0])
        return torch.cat([first, *(self._apart(group) for group in groups[1:])])

    def _apart(self, group: Tensor) -> Tensor:
        return F.batch_norm(group, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def _across(self, input: Tensor) -> Tensor:  # noqa: A002 - as in `forward`
        # Statistics of bfloat16 maps are taken in float32.
        x = input.float() if input.dtype.itemsize < 4 else input
        here = x.new_tensor([x.numel() / self.num_features])
        sums = _Total.apply(torch.cat([x.sum(dim=(0, 2, 3)), here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(1, -1, 1, 1)
        # In a second round, not as E[x²] - E[x]², which cancels in float32.
        variance = _Total.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normalised.to(input.dtype)


class _Total(torch.autograd.Function):
    """The sum over all processes, through which gradients flow back to each."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed


def declare(module: nn.Module, images: int | None) -> None:
    """Replace every BN of the module, in place, by one over the declared images that holds the same tensors."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                with torch.device("meta"):
                    replacement = DeclaredBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
                replacement.load_state_dict(child.state_dict(keep_vars=True), assign=True)
                replacement.images = images
                setattr(parent, name, replacement.train(child.training))
