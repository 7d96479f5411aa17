"""The two mechanisms that He et al. 2020 compare MoCo with (figure 2), trained by the same step.

Shapes as in `pretrain.model`: N images of this process, B of the step, D dimensions, K negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed.nn.functional as with_gradient
import torch.nn.functional as F
from torch import Tensor

from converters import distributed
from pretrain.batch_norm import observe
from pretrain.exchange import Exchange
from pretrain.info_nce import Contrast, info_nce
from pretrain.model import Mechanism, MoCo, projector, shared_permutation, unit
from pretrain.recipes import Recipe


class EndToEnd(Mechanism):
    """Keys of the same batch by the same encoder, the gradient flowing through both (figure 2a).

    The negatives of an image are the B - 1 other keys of the step. The keys are shuffled as MoCo's are (section 4.1).
    `encoder_k` is another name of `encoder_q`, so that a checkpoint has the names of MoCo's.
    """

    parts = 1

    def __init__(
        self, arch: str, dim: int = 128, temperature: float = 0.07, mlp: bool = False, *, bn_groups: int = 1
    ) -> None:
        super().__init__()
        self.T = temperature
        self.encoder_q = projector(arch, dim, mlp, bn_groups)
        self.encoder_k = self.encoder_q

    def begin(self, im_k: Tensor, numbers: Tensor, generator: torch.Generator) -> _Shuffled:  # noqa: ARG002
        """The shuffled images, not encoded yet: their gradient belongs to `contrast`."""
        B, rank, world = len(im_k) * distributed.size(), distributed.rank(), distributed.size()
        permutation = shared_permutation(B, generator, im_k.device)
        images = Exchange.plan(permutation, rank, world)(im_k)
        return _Shuffled(images, permutation.argsort().to(im_k.device, non_blocking=True))

    def contrast(self, im_q: Tensor, targets: _Shuffled, part: int) -> Contrast:  # noqa: ARG002
        """The loss of all N queries against the B keys."""
        N, rank = len(im_q), distributed.rank()
        observe(self.encoder_q, True)
        q = unit(self.encoder_q(im_q))
        observe(self.encoder_q, False)
        shuffled = unit(self.encoder_k(targets.images))
        if distributed.size() > 1:
            shuffled = torch.cat(with_gradient.all_gather(shuffled))  # type: ignore[no-untyped-call]
        keys = shuffled[targets.inverse]
        mine = torch.arange(rank * N, (rank + 1) * N, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            logits = q @ keys.T / self.T  # N×B
            positive = logits.gather(1, mine[:, None])
            return Contrast(F.cross_entropy(logits, mine), (logits >= positive).sum(dim=1) - 1)

    def end(self, targets: _Shuffled) -> None:
        """Nothing: no key outlives its step."""


class _Shuffled(NamedTuple):
    images: Tensor
    """N×3×H×W, which this process encodes."""
    inverse: Tensor
    """B: where the key of each image stands among all that were encoded."""


class MemoryBank(Mechanism):
    """Keys from a bank with an entry for each image of the data set (figure 2b; Wu et al. 2018).

    The positive of an image is its own entry, of when it was last seen; the K negatives are drawn evenly from the bank,
    the same for the whole step. The entry then moves to m·entry + (1-m)·q, on the unit sphere. No key encoder, and no
    shuffling: the entry was made in another batch. State: `encoder_q.*` and `bank` (images×D).
    """

    bank: Tensor

    def __init__(  # noqa: PLR0917 - the order of MoCo's arguments, all but the first two with a default
        self,
        arch: str,
        images: int,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.5,
        temperature: float = 0.07,
        mlp: bool = False,
        *,
        bn_groups: int = 1,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.K, self.m, self.T, self.parts = queue_size, momentum, temperature, parts
        self.encoder_q = projector(arch, dim, mlp, bn_groups // parts)
        self.register_buffer("bank", F.normalize(torch.randn(images, dim), dim=1))

    def begin(self, im_k: Tensor, numbers: Tensor, generator: torch.Generator) -> _Entries:  # noqa: ARG002
        """The entries of these images, and the step's negatives."""
        drawn = torch.randint(len(self.bank), (self.K,), generator=generator)
        negatives = self.bank[drawn.to(self.bank.device, non_blocking=True)].T
        return _Entries(numbers, self.bank[numbers], negatives, [])

    def contrast(self, im_q: Tensor, targets: _Entries, part: int) -> Contrast:
        """The loss of a part's queries."""
        observe(self.encoder_q, part == 0)
        q = unit(self.encoder_q(im_q))
        targets.seen.append(q.detach())
        return info_nce(q, targets.positives.chunk(self.parts)[part], targets.negatives, self.T)

    @torch.no_grad()
    def end(self, targets: _Entries) -> None:
        """Move the entries of the images seen in any process."""
        moved = F.normalize(self.m * targets.positives + (1 - self.m) * torch.cat(targets.seen), dim=1)
        numbers, entries = distributed.gather(targets.numbers), distributed.gather(moved)
        # An image may come twice in a step: the last counts, in every process, whichever write comes last.
        same = numbers[:, None] == numbers  # B×B
        last = (same * torch.arange(1, len(numbers) + 1, device=numbers.device)).argmax(dim=1)
        self.bank[numbers] = entries[last]


class _Entries(NamedTuple):
    numbers: Tensor
    """N"""
    positives: Tensor
    """N×D"""
    negatives: Tensor
    """D×K"""
    seen: list[Tensor]
    """The queries, a tensor a part."""


def build(recipe: Recipe, *, images: int | None, bn_groups: int) -> Mechanism:
    """The recipe's mechanism, initialised from torch's global generator.

    Args:
        recipe: which, and its settings.
        images: entries of a memory bank, which alone needs to know.
        bn_groups: of this process.
    """
    if recipe.mechanism == "end-to-end":
        return EndToEnd(recipe.arch, recipe.dim, recipe.temperature, recipe.mlp, bn_groups=bn_groups)
    if recipe.mechanism == "memory-bank":
        assert images is not None  # `plan.checked` admits files alone
        return MemoryBank(
            recipe.arch,
            images,
            recipe.dim,
            recipe.queue_size,
            recipe.momentum,
            recipe.temperature,
            recipe.mlp,
            bn_groups=bn_groups,
            parts=recipe.accumulate,
        )
    return MoCo(
        recipe.arch,
        recipe.dim,
        recipe.queue_size,
        recipe.momentum,
        recipe.temperature,
        recipe.mlp,
        bn_groups=bn_groups,
        parts=recipe.accumulate,
    )
