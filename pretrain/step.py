"""One optimizer step, whatever the mechanism, the precision and the number of processes. The host never waits in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from pretrain.info_nce import accuracy
from pretrain.model import Mechanism
from pretrain.recipes import Recipe

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """Use as `measured = step(im_q, im_k, numbers, generator)`.

    Args:
        mechanism: on its device; it is put into the recipe's memory format and compiled here.
        recipe: precision, memory format and optimizer.
    """

    def __init__(self, mechanism: Mechanism, recipe: Recipe) -> None:
        device = next(mechanism.parameters()).device
        self.mechanism = mechanism
        self.dtype = _PRECISIONS[recipe.precision]
        self.format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        mechanism.to(memory_format=self.format)
        if recipe.compile:
            for encoder in {mechanism.encoder_q, getattr(mechanism, "encoder_k", mechanism.encoder_q)}:
                encoder.compile()
        # All parameters, as in the reference; those of the key encoder have no gradient and stay.
        self.optimizer = SGD(
            mechanism.parameters(),
            recipe.base_lr,
            momentum=recipe.sgd_momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        # The fused optimizer would make these without writing them, and a step that the scaler skips leave them so.
        for _, parameter in self.trained():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.scaler = GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.queries: nn.Module = _Queries(mechanism)
        if dist.is_initialized():
            # As the reference: gradients are averaged, and every forward starts from rank 0's running statistics.
            self.queries = DistributedDataParallel(self.queries)
        self.queries.train()

    def __call__(self, im_q: Tensor, im_k: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Move the weights by one step.

        Args:
            im_q: N×3×H×W, the query view of this process's images.
            im_k: N×3×H×W, the key view.
            numbers: N int64, which images these are.
            generator: on the CPU, in the same state in every process.

        Returns:
            loss (nats), contrastive top-1 and top-5 (percent) of this process's images: 3, on the device.
        """
        im_q, im_k = (view.contiguous(memory_format=self.format) for view in (im_q, im_k))
        parts = self.mechanism.parts
        measured = []
        with self._autocast():
            # The encoder rounds its input to this anyway: so the images that travel are half as large.
            targets = self.mechanism.begin(im_k.to(self.dtype) if self._mixed else im_k, numbers, generator)
        self.optimizer.zero_grad()
        for part, images in enumerate(im_q.chunk(parts)):
            with self._averaging(last=part == parts - 1):
                with self._autocast():
                    loss, better = self.queries(images, targets, part)
                torch.autograd.backward(self.scaler.scale(loss / parts))
            measured.append(torch.cat([loss.detach().float().reshape(1), accuracy(better)]))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.mechanism.end(targets)
        return torch.stack(measured).mean(dim=0)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that the optimizer moves, by their names."""
        for name, parameter in self.mechanism.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    @property
    def _mixed(self) -> bool:
        return self.dtype != torch.float32

    def _autocast(self) -> AbstractContextManager[object]:
        if not self._mixed:
            return nullcontext()
        return torch.autocast(next(self.mechanism.parameters()).device.type, self.dtype)

    def _averaging(self, *, last: bool) -> AbstractContextManager[object]:
        """The gradients of all parts but the last stay here: they are averaged over the processes once."""
        if last or not isinstance(self.queries, DistributedDataParallel):
            return nullcontext()
        return self.queries.no_sync()


class _Queries(nn.Module):
    """What carries the gradient, as one module: so that averaging knows when a pass is over.

    It holds the query encoder alone: queue and bank are equal in all processes already, and large.
    """

    def __init__(self, mechanism: Mechanism) -> None:
        super().__init__()
        self.encoder_q = mechanism.encoder_q
        self._contrast = mechanism.contrast

    def forward(self, im_q: Tensor, targets: Any, part: int) -> tuple[Tensor, Tensor]:
        return self._contrast(im_q, targets, part)
