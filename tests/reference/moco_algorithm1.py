"""MoCo as the paper writes it, step by step and slowly: He et al. 2020, Algorithm 1 and section 3.3.

All processes of a group live in one: each has its own copies of both encoders, which share parameters but see only
their own images in BN. Nothing here is taken from `pretrain`.
"""

from __future__ import annotations

import copy

import torch
import torchvision
from torch import Tensor, nn


class Algorithm1:
    """`world` processes, a queue that is a plain list of K keys, and SGD by hand."""

    def __init__(self, arch: str, *, dim: int, K: int, m: float, T: float, mlp: bool, world: int, lr: float) -> None:
        f_q = getattr(torchvision.models, arch)(num_classes=dim)
        if mlp:
            width = f_q.fc.in_features
            f_q.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
        self.m, self.T, self.world, self.lr = m, T, world, lr
        self.f_q = [copy.deepcopy(f_q) for _ in range(world)]
        self.f_k = [copy.deepcopy(f_q) for _ in range(world)]
        self.queue = [key / key.norm() for key in torch.randn(K, dim)]
        self.oldest = 0
        self.velocity: dict[str, Tensor] = {}

    def to(self, dtype: torch.dtype) -> Algorithm1:
        for encoder in [*self.f_q, *self.f_k]:
            encoder.to(dtype)
        self.queue = [key.to(dtype) / key.to(dtype).norm() for key in self.queue]
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Under the reference's names; BN statistics are those of process 0."""
        state = {f"encoder_q.{name}": value for name, value in self.f_q[0].state_dict().items()}
        state |= {f"encoder_k.{name}": value for name, value in self.f_k[0].state_dict().items()}
        state["queue"] = torch.stack(self.queue, dim=1)
        state["queue_ptr"] = torch.tensor([self.oldest])
        return {name: value.detach() for name, value in state.items()}

    def step(self, im_q: Tensor, im_k: Tensor, permutation: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step on the global batch; `permutation[j]` is the image that place j encodes as key.

        Returns:
            B×(1+K) logits, and the loss of each process.
        """
        B = len(im_q)
        N = B // self.world

        q = [_unit(feature) for p in range(self.world) for feature in self.f_q[p](im_q[p * N : (p + 1) * N])]

        with torch.no_grad():
            for f_q, f_k in zip(self.f_q, self.f_k, strict=True):
                for (_, theta_q), (_, theta_k) in zip(f_q.named_parameters(), f_k.named_parameters(), strict=True):
                    theta_k.copy_(self.m * theta_k + (1 - self.m) * theta_q)
            k: dict[int, Tensor] = {}
            for p in range(self.world):
                places = range(p * N, (p + 1) * N)
                features = self.f_k[p](torch.stack([im_k[permutation[place]] for place in places]))
                for place, feature in zip(places, features, strict=True):
                    k[int(permutation[place])] = _unit(feature)

        logits = [
            torch.stack([torch.dot(q[i], k[i]), *(torch.dot(q[i], negative) for negative in self.queue)]) / self.T
            for i in range(B)
        ]
        losses = []
        for p in range(self.world):
            mine = logits[p * N : (p + 1) * N]
            # -log(exp(positive) / sum(exp)), shifted by the largest logit so that exp stays finite.
            each = [(row - row.max()).exp().sum().log() + row.max() - row[0] for row in mine]
            loss = torch.stack(each).sum() / N
            loss.backward()
            losses.append(loss.detach())
        self._sgd()
        self._share_buffers()

        for i in range(B):
            self.queue[self.oldest] = k[i]
            self.oldest = (self.oldest + 1) % len(self.queue)
        return torch.stack(logits).detach(), torch.stack(losses)

    def _sgd(self, momentum: float = 0.9, weight_decay: float = 1e-4) -> None:
        """The gradient is the mean over processes; weight decay on everything; each process steps alike."""
        named = [dict(f_q.named_parameters()) for f_q in self.f_q]
        with torch.no_grad():
            for name, theta in named[0].items():
                gradient = sum(parameters[name].grad for parameters in named) / self.world + weight_decay * theta
                previous = self.velocity.get(name)
                self.velocity[name] = gradient if previous is None else momentum * previous + gradient
                updated = theta - self.lr * self.velocity[name]
                for parameters in named:
                    parameters[name].copy_(updated)
                    parameters[name].grad = None

    def _share_buffers(self) -> None:
        for encoders in (self.f_q, self.f_k):
            for encoder in encoders[1:]:
                for mine, first in zip(encoder.buffers(), encoders[0].buffers(), strict=True):
                    mine.copy_(first)


def _unit(feature: Tensor) -> Tensor:
    return feature / (feature * feature).sum().sqrt()
