"""MoCo (He et al. 2020, Algorithm 1), with the names of facebookresearch/moco@7397dfe, `moco/builder.py`.

Shapes: N images of this process, W processes, B = W·N images of the step, D dimensions, K keys in the queue.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters import architectures
from converters.errors import UserError
from pretrain import distributed


class MoCo(nn.Module):
    """A query encoder, its momentum copy, and a queue of past keys.

    State: `encoder_q.*`, `encoder_k.*`, `queue` (D×K, unit columns), `queue_ptr` (1), as in the reference, whose
    checkpoints load here (without their prefix `module.`) and ours there. The head is `fc`, or with `mlp` the
    layers `fc.0` and `fc.2` (Chen et al. 2020, section 2), without BN.

    Args:
        arch: a ResNet's name.
        dim: D, the dimensions of the embedding.
        queue_size: K, the number of negatives; the step's global batch must divide it.
        momentum: m of the key encoder.
        temperature: T of the logits.
        mlp: a hidden layer in the head.

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
    ) -> None:
        super().__init__()
        self.K, self.m, self.T = queue_size, momentum, temperature
        self.encoder_q = _encoder(arch, dim, mlp)
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
        with torch.no_grad():
            self._update_key_encoder()
            k = self._keys(im_k)  # N×D

        l_pos = (q * k).sum(dim=1, keepdim=True)  # N×1
        # A copy, because the backward pass needs the negatives as they were before the enqueue below.
        l_neg = q @ self.queue.clone()  # N×K
        logits = torch.cat([l_pos, l_neg], dim=1) / self.T
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)

        self._enqueue(distributed.gather(k))
        return logits, labels

    @torch.no_grad()
    def _update_key_encoder(self) -> None:
        """Move k to m·k + (1-m)·q: parameters alone, for BN statistics come from the key encoder's own passes."""
        for parameter_q, parameter_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            parameter_k.mul_(self.m).add_(parameter_q, alpha=1 - self.m)

    def _keys(self, im_k: Tensor) -> Tensor:
        """N×3×H×W -> N×D: each process encodes images of others, so that BN cannot betray the pairs (section 3.3)."""
        N, rank = len(im_k), distributed.rank()
        images = distributed.gather(im_k)  # B×3×H×W
        permutation = distributed.from_main(torch.randperm(len(images)).to(im_k.device))
        mine = slice(rank * N, (rank + 1) * N)
        k = F.normalize(self.encoder_k(images[permutation[mine]]), dim=1)
        return distributed.gather(k)[permutation.argsort()[mine]]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Write B×D keys over the oldest of the queue."""
        B = len(keys)
        check_queue(self.K, B)
        # Indices on the device: reading the pointer on the host would make a GPU wait.
        columns = (self.queue_ptr + torch.arange(B, device=keys.device)) % self.K
        self.queue.index_copy_(1, columns, keys.T)
        self.queue_ptr.add_(B).remainder_(self.K)


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


def _encoder(arch: str, dim: int, mlp: bool) -> nn.Module:
    encoder = architectures.build(arch, num_classes=dim)
    if mlp:
        features = architectures.architecture(arch).feature_dim
        encoder.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim))
    return encoder
