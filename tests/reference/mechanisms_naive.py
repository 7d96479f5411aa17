"""The two other mechanisms of He et al. 2020, figure 2, written out image by image.

As in `moco_algorithm1`, all processes of a group live in one, and each sees only its own images in BN.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn


class _Processes:
    """Copies of one encoder, a process each; SGD with momentum and weight decay on the mean of their gradients."""

    def __init__(self, arch: str, *, dim: int, T: float, world: int, lr: float) -> None:
        self.T, self.world, self.lr = T, world, lr
        encoder = getattr(torchvision.models, arch)(num_classes=dim).double()
        self.encoders = [copy.deepcopy(encoder) for _ in range(world)]
        self.sgd = torch.optim.SGD(self.encoders[0].parameters(), lr, momentum=0.9, weight_decay=1e-4)

    def of(self, image: int, images: int) -> nn.Module:
        return self.encoders[image * self.world // images]

    def embed(self, images: Tensor, order: Sequence[int]) -> dict[int, Tensor]:
        """The place j encodes image order[j]; image -> unit embedding."""
        N = len(order) // self.world
        found = {}
        for p, encoder in enumerate(self.encoders):
            places = order[p * N : (p + 1) * N]
            for image, feature in zip(places, encoder(torch.stack([images[i] for i in places])), strict=True):
                found[image] = feature / feature.norm()
        return found

    def move(self, loss: Tensor) -> None:
        """Process 0 takes the mean gradient and hands its state to all."""
        for encoder in self.encoders:
            encoder.zero_grad()
        loss.backward()
        for parameters in zip(*(encoder.parameters() for encoder in self.encoders), strict=True):
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            # The loss is the mean over all images already: the copies' gradients are its parts.
            parameters[0].grad = torch.stack(gradients).sum(dim=0)
        self.sgd.step()
        for encoder in self.encoders[1:]:
            encoder.load_state_dict(self.encoders[0].state_dict())


def _nll(scores: list[Tensor], right: int) -> Tensor:
    stacked = torch.stack(scores)
    return -(stacked[right] - stacked.max() - (stacked - stacked.max()).exp().sum().log())


class EndToEndNaive(_Processes):
    """Figure 2a: gradients through queries and keys; the negatives are the other images of the step."""

    def step(self, im_q: Tensor, im_k: Tensor, permutation: Tensor) -> float:
        B = len(im_q)
        q = self.embed(im_q, range(B))
        # Running statistics follow the queries alone: those of the keys' pass are put back.
        before = [copy.deepcopy(dict(encoder.named_buffers())) for encoder in self.encoders]
        k = self.embed(im_k, permutation.tolist())
        loss = torch.stack([_nll([q[i] @ k[j] / self.T for j in range(B)], i) for i in range(B)]).mean()
        for encoder, buffers in zip(self.encoders, before, strict=True):
            for name, value in encoder.named_buffers():
                value.data.copy_(buffers[name])
        self.move(loss)
        return loss.item()


class MemoryBankNaive(_Processes):
    """Figure 2b: a bank with an entry an image; its entries move, no key encoder does."""

    def __init__(self, arch: str, *, bank: Tensor, m: float, dim: int, T: float, world: int, lr: float) -> None:
        super().__init__(arch, dim=dim, T=T, world=world, lr=lr)
        self.bank, self.m = [entry.clone() for entry in bank], m

    def step(self, im_q: Tensor, numbers: Sequence[int], negatives: Sequence[int]) -> float:
        B = len(im_q)
        q = self.embed(im_q, range(B))
        losses = []
        for i in range(B):
            scores = [q[i] @ self.bank[numbers[i]], *(q[i] @ self.bank[j] for j in negatives)]
            losses.append(_nll([score / self.T for score in scores], 0))
        loss = torch.stack(losses).mean()
        self.move(loss)
        for i in range(B):
            entry = self.m * self.bank[numbers[i]] + (1 - self.m) * q[i].detach()
            self.bank[numbers[i]] = entry / entry.norm()
        return loss.item()
