"""The reference's training step as its users run it (facebookresearch/moco@7397dfe, `moco/builder.py`, `main_moco.py`).

Written anew, with the same operations in the same order: the queue is copied, the logits are concatenated, each
parameter of the key encoder is moved by itself, images are gathered from all processes and indexed, the loss and the
top-5 of all logits are read on the host. This is its way in one process, where gathering is a copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReferenceStep:
    """Takes over the encoders, the queue and the optimizer's settings of a MoCo."""

    def __init__(
        self, encoder_q: nn.Module, encoder_k: nn.Module, queue: Tensor, *, m: float, T: float, lr: float
    ) -> None:
        self.encoder_q, self.encoder_k, self.queue = encoder_q, encoder_k, queue
        self.queue_ptr = torch.zeros(1, dtype=torch.long)
        self.m, self.T = m, T
        parameters = [*encoder_q.parameters(), *encoder_k.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=1e-4)
        self.criterion = nn.CrossEntropyLoss()

    def __call__(self, im_q: Tensor, im_k: Tensor) -> tuple[float, float, float]:
        """Loss, top-1 and top-5."""
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            self._momentum_update()
            shuffled, unshuffle = self._shuffle(im_k)
            k = F.normalize(self.encoder_k(shuffled), dim=1)
            k = k[unshuffle]
        l_pos = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        l_neg = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([l_pos, l_neg], dim=1)
        logits /= self.T
        labels = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        self._enqueue(k)

        loss = self.criterion(logits, labels)
        top1, top5 = self._accuracy(logits, labels)
        read = loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return read, top1, top5

    @torch.no_grad()
    def _momentum_update(self) -> None:
        for theta_q, theta_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            theta_k.data = theta_k.data * self.m + theta_q.data * (1.0 - self.m)

    @staticmethod
    @torch.no_grad()
    def _shuffle(images: Tensor) -> tuple[Tensor, Tensor]:
        gathered = torch.cat([torch.ones_like(images).copy_(images)])  # concat_all_gather of one process
        order = torch.randperm(len(gathered), device=images.device)
        return gathered[order.view(1, -1)[0]], torch.argsort(order)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        pointer = int(self.queue_ptr)
        self.queue[:, pointer : pointer + len(keys)] = keys.T
        self.queue_ptr[0] = (pointer + len(keys)) % self.queue.shape[1]

    @staticmethod
    @torch.no_grad()
    def _accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
        _, found = logits.topk(5, 1, True, True)
        correct = found.t().eq(labels.view(1, -1).expand(5, -1))
        top1, top5 = (correct[:k].reshape(-1).float().sum().mul(100.0 / len(labels)).item() for k in (1, 5))
        return top1, top5
