"""Many linear classifiers on the same features as one: one matrix product a step for all of them, and one SGD.

Shapes: N features a batch, D features, H heads, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evaluators.images import stream
from evaluators.predictions import rank

INIT = 0
"""The stream of a seed from which the heads' first weights are drawn."""
_BLOCK = 1 << 25
"""Logits that are held at a time when features are classified; 128 MiB in float32."""


class Heads:
    """H linear classifiers D -> C, each with a learning rate and a weight decay of its own.

    A step is that of `torch.optim.SGD` on the mean cross-entropy of each head: v <- m v + g + λ w, w <- w - η v, for
    weights and biases. The gradient is written out (softmax minus the label, times the feature), so that every head's
    share of it comes from one product.

    Args:
        weight: H×C×D, at the start; changed in place, on the device and in the precision of everything else.
        lr: η of each head.
        weight_decay: λ of each head.
        momentum: m, the same for all.
    """

    def __init__(self, weight: Tensor, *, lr: Sequence[float], weight_decay: Sequence[float], momentum: float) -> None:
        heads, classes, _ = weight.shape
        assert len(lr) == len(weight_decay) == heads, f"{heads} heads, {len(lr)} and {len(weight_decay)} settings"
        self.weight = weight.contiguous()
        self.bias = weight.new_zeros(heads, classes)
        self.weight_momentum = torch.zeros_like(self.weight)
        self.bias_momentum = torch.zeros_like(self.bias)
        self.momentum = momentum
        self.lr = tuple(lr)
        self._lr = torch.tensor(lr, dtype=weight.dtype, device=weight.device)
        self._decay = torch.tensor(weight_decay, dtype=weight.dtype, device=weight.device)
        self._decays = any(weight_decay)

    def __len__(self) -> int:
        return len(self.weight)

    def state(self) -> dict[str, Tensor]:
        """All that a step changes, by name; the tensors themselves."""
        names = ("weight", "bias", "weight_momentum", "bias_momentum")
        return {name: getattr(self, name) for name in names}

    def logits(self, features: Tensor, head: int | None = None) -> Tensor:
        """N×D -> N×H×C, or N×C of one head."""
        if head is not None:
            return torch.addmm(self.bias[head], features, self.weight[head].T)
        flat = torch.addmm(self.bias.flatten(), features, self.weight.flatten(0, 1).T)
        return flat.view(len(features), *self.bias.shape)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """One step of every head on the same batch.

        Args:
            features: N×D.
            labels: N class indices.
            scale: by which all learning rates are multiplied, as the schedule asks.

        Returns:
            The mean cross-entropy of each head and how many of the N it had right, both before the step: H and H.
        """
        n, (heads, classes) = len(features), self.bias.shape
        logits = self.logits(features)
        hits = (logits.argmax(dim=2) == labels[:, None]).sum(dim=0)
        log_p = logits.log_softmax(dim=2)
        index = labels.view(n, 1, 1).expand(n, heads, 1)
        loss = -log_p.gather(2, index).squeeze(2).mean(dim=0)
        # d loss / d logits, times N: softmax minus one at the label.
        error = log_p.exp_().scatter_add_(2, index, log_p.new_full((), -1.0).expand(n, heads, 1)).div_(n)
        error = error.view(n, heads * classes)
        self.weight_momentum.flatten(0, 1).addmm_(error.T, features, beta=self.momentum)
        self.bias_momentum.mul_(self.momentum).add_(error.sum(dim=0).view(heads, classes))
        if self._decays:
            self.weight_momentum.addcmul_(self.weight, self._decay[:, None, None])
            self.bias_momentum.addcmul_(self.bias, self._decay[:, None])
        lr = self._lr * -scale
        self.weight.addcmul_(self.weight_momentum, lr[:, None, None])
        self.bias.addcmul_(self.bias_momentum, lr[:, None])
        return loss, hits

    def finite(self) -> Tensor:
        """Whether all weights of each head are finite: H booleans."""
        return self.weight.isfinite().flatten(1).all(dim=1) & self.bias.isfinite().all(dim=1)

    @torch.no_grad()
    def places(self, features: Tensor, labels: Tensor) -> Tensor:
        """The place of each label among a head's classes, 0 the best: N×H. Equal logits: the lower class first."""
        heads, classes = self.bias.shape
        lower = torch.arange(classes, device=labels.device) < labels[:, None]
        found = []
        rows = max(1, _BLOCK // (heads * classes))
        for first in range(0, len(features), rows):
            block = slice(first, first + rows)
            logits = self.logits(features[block])
            own = logits.gather(2, labels[block].view(-1, 1, 1).expand(-1, heads, 1))
            found.append(((logits > own) | ((logits == own) & lower[block, None])).sum(dim=2))
        return torch.cat(found)

    @torch.no_grad()
    def rank(self, features: Tensor, head: int) -> Tensor:
        """The five best classes of one head, best first: N×5 (N×C for fewer). Equal logits: the lower class first."""
        rows = max(1, _BLOCK // self.bias.shape[1])
        blocks = range(0, len(features), rows)
        return torch.cat([rank(self.logits(features[first : first + rows], head)) for first in blocks])


def start(feature_dim: int, num_classes: int, std: float, seed: int, head_seeds: Sequence[int] = (0,)) -> Tensor:
    """The first weights of a head for each of `head_seeds`, from N(0, std): H×C×D. Biases start at zero."""
    generators = [torch.Generator().manual_seed(stream(seed, INIT, number)) for number in head_seeds]
    return torch.stack([torch.empty(num_classes, feature_dim).normal_(0, std, generator=each) for each in generators])
