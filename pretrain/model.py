"""MoCo (He et al. 2020, Algorithm 1), with the names of facebookresearch/moco@7397dfe, `moco/builder.py`.

Shapes: N images of this process, W processes, B = W·N images of the step, D dimensions, K keys in the queue.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from converters import architectures, distributed
from converters.errors import UserError
from pretrain.batch_norm import grouped, observe
from pretrain.exchange import Exchange
from pretrain.info_nce import Contrast, info_nce


class Mechanism(nn.Module, ABC):
    """What the training step asks for, beside the query encoder; `targets` are the mechanism's own.

    A step: `begin`, then `contrast` for each part of the queries, then the optimizer, then `end`.
    """

    encoder_q: nn.Module
    parts: int
    """How many passes a process's images are encoded in, one after the other."""

    @abstractmethod
    def begin(self, im_k: Tensor, numbers: Tensor, generator: torch.Generator) -> Any:
        """What a step needs beside its queries.

        Args:
            im_k: N×3×H×W, the key view.
            numbers: N int64, which images these are.
            generator: on the CPU, in the same state in every process.
        """

    @abstractmethod
    def contrast(self, im_q: Tensor, targets: Any, part: int) -> Contrast:
        """The loss of a part's queries (N/parts×3×H×W), which carries their gradient."""

    @abstractmethod
    def end(self, targets: Any) -> None:
        """Update the dictionary, once the optimizer has moved the query encoder."""


class MoCo(Mechanism):
    """A query encoder, its momentum copy, and a queue of past keys.

    State: `encoder_q.*`, `encoder_k.*`, `queue` (D×K, unit columns), `queue_ptr` (1), as in the reference, whose
    checkpoints load here (without their prefix `module.`) and ours there. The head is `fc`, or with `mlp` the
    layers `fc.0` and `fc.2` (Chen et al. 2020, section 2), without BN.

    `forward` is a whole step up to the logits, as in the reference. Training takes the same step in three calls,
    `begin`, `contrast`, `end` (see `pretrain.mechanisms`), which copy no queue and store no logits.

    Args:
        arch: a ResNet's name.
        dim: D, the dimensions of the embedding.
        queue_size: K, the number of negatives; the step's global batch must divide it.
        momentum: m of the key encoder.
        temperature: T of the logits.
        mlp: a hidden layer in the head.
        bn_groups: parts of this process's N images that have BN statistics of their own.
        parts: how many passes the N images are encoded in, one after the other; they divide `bn_groups`.

    Raises:
        UserError: for an unknown architecture.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(  # noqa: PLR0917 - the public order of the arguments, all but the first with a default
        self,
        arch: str,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = False,
        *,
        bn_groups: int = 1,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.K, self.m, self.T = queue_size, momentum, temperature
        self.parts = parts
        self._pairs: tuple[list[nn.Parameter], ...] = ()
        self.encoder_q = projector(arch, dim, mlp, bn_groups // parts)
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, im_q: Tensor, im_k: Tensor) -> tuple[Tensor, Tensor]:
        """One step of Algorithm 1 up to the loss: it moves the key encoder and fills the queue.

        Args:
            im_q: N×3×H×W, one view of each image.
            im_k: N×3×H×W, the other view.

        Returns:
            logits N×(1+K), already divided by T, the positive first; labels N, all zero.

        Raises:
            UserError: if B does not divide K.
        """
        q = F.normalize(self.encoder_q(im_q), dim=1)  # N×D
        k, keys = self.begin(im_k)  # N×D, B×D

        l_pos = (q * k).sum(dim=1, keepdim=True)  # N×1
        # A copy, because the backward pass needs the negatives as they were before the enqueue below.
        l_neg = q @ self.queue.clone()  # N×K
        logits = torch.cat([l_pos, l_neg], dim=1) / self.T
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)

        self._enqueue(keys)
        return logits, labels

    @torch.no_grad()
    def begin(self, im_k: Tensor, numbers: Tensor | None = None, generator: torch.Generator | None = None) -> Keys:  # noqa: ARG002
        """Move the key encoder, then encode the keys, shuffled over all processes (section 3.3).

        Each process encodes images of others, so that BN cannot betray the pairs. Every image travels once.

        Args:
            im_k: N×3×H×W.
            numbers: not used by this mechanism.
            generator: draws the permutation; on the CPU, in the same state in every process. By default rank 0 draws
                it from torch's global one.
        """
        self._update_key_encoder()
        N, rank = len(im_k), distributed.rank()
        permutation = shared_permutation(N * distributed.size(), generator, im_k.device)
        images = Exchange.plan(permutation, rank, distributed.size())(im_k)
        encoded = []
        for number, part in enumerate(images.chunk(self.parts)):
            if self.parts > 1:
                observe(self.encoder_k, number == 0)
            encoded.append(unit(self.encoder_k(part)))
        shuffled = distributed.gather(torch.cat(encoded))
        keys = shuffled[permutation.argsort().to(shuffled.device, non_blocking=True)]
        return Keys(keys[rank * N : (rank + 1) * N], keys)

    def contrast(self, im_q: Tensor, keys: Keys, part: int) -> Contrast:
        """The loss of a part's queries, which carries their gradient."""
        if self.parts > 1:
            observe(self.encoder_q, part == 0)
        q = unit(self.encoder_q(im_q))
        return info_nce(q, keys.k.chunk(self.parts)[part], self.queue, self.T)

    def end(self, keys: Keys) -> None:
        """Fill the queue."""
        self._enqueue(keys.all)

    @torch.no_grad()
    def _update_key_encoder(self) -> None:
        """Move k to m·k + (1-m)·q: parameters alone, for BN statistics come from the key encoder's own passes."""
        if not self._pairs:  # looking the parameters up costs a few milliseconds
            self._pairs = (list(self.encoder_k.parameters()), list(self.encoder_q.parameters()))
        move = get_ema_multi_avg_fn(self.m)  # type: ignore[no-untyped-call]
        move(*self._pairs, None)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Write B×D keys over the oldest of the queue."""
        B = len(keys)
        check_queue(self.K, B)
        # Indices on the device: reading the pointer on the host would make a GPU wait.
        columns = (self.queue_ptr + torch.arange(B, device=keys.device)) % self.K
        self.queue.index_copy_(1, columns, keys.T)
        self.queue_ptr.add_(B).remainder_(self.K)


class Keys(NamedTuple):
    """The keys of a step."""

    k: Tensor
    """N×D, of this process's images."""
    all: Tensor
    """B×D, of all processes' images."""


def check_queue(queue_size: int, batch_size: int) -> None:
    """See that the queue is filled by whole global batches.

    Raises:
        UserError: if not, with the nearest sizes that are.
    """
    if queue_size % batch_size == 0:
        return
    size = max(1, round(queue_size / batch_size)) * batch_size
    batch = min((b for b in range(1, queue_size + 1) if queue_size % b == 0), key=lambda b: abs(b - batch_size))
    raise UserError(
        expected="a queue_size that the global batch divides",
        found=f"queue_size {queue_size} and batch_size {batch_size}",
        cure=f"use queue_size={size} or batch_size={batch}",
    )


def projector(arch: str, dim: int, mlp: bool, bn_groups: int) -> nn.Module:
    """A ResNet whose `fc` gives the embedding of `dim` dimensions."""
    encoder = architectures.build(arch, num_classes=dim)
    if mlp:
        features = architectures.architecture(arch).feature_dim
        encoder.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim))
    return grouped(encoder, bn_groups)


def shared_permutation(B: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """The same permutation of B in every process, on the CPU: place p encodes image `permutation[p]`.

    A generator that is in the same state everywhere needs no word between the processes; without one rank 0 draws.
    """
    if generator is not None:
        return torch.randperm(B, generator=generator)
    return distributed.from_main(torch.randperm(B).to(device)).cpu()


def unit(features: Tensor) -> Tensor:
    """On the unit sphere, and in the precision of the queue whatever autocast made of the encoder's output."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)
