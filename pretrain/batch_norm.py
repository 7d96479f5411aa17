"""BN over sub-batches, so that one process has the batch statistics that several would have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BN whose batch statistics are those of `groups` equal, consecutive parts of the batch, each apart.

    The running statistics follow the first group alone, as `DistributedDataParallel` keeps those of rank 0. Names and
    shapes of the state are those of `nn.BatchNorm2d`; in evaluation mode it is one.
    """

    groups: int = 1
    observes: bool = True
    """Whether this pass may move the running statistics: a step that is computed in parts does so in its first."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.BatchNorm2d gives it
        """N×C×H×W -> N×C×H×W; in training the groups divide N."""
        if not self.training or (self.groups == 1 and self.observes):
            return super().forward(input)
        # Not `chunk`, which would make fewer groups of a batch that they do not divide.
        first, *others = input.unflatten(0, (self.groups, -1)).unbind()  # type: ignore[no-untyped-call]
        normalised = [super().forward(first) if self.observes else self._apart(first)]
        normalised += [self._apart(group) for group in others]
        return torch.cat(normalised)

    def _apart(self, group: Tensor) -> Tensor:
        return F.batch_norm(group, None, None, self.weight, self.bias, training=True, eps=self.eps)


def grouped(encoder: nn.Module, groups: int) -> nn.Module:
    """The encoder with every BN replaced, in place, by one of `groups` groups that holds the same tensors."""
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                replacement = GroupedBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
                replacement.load_state_dict(child.state_dict())
                replacement.groups = groups
                setattr(module, name, replacement)
    return encoder


def observe(encoder: nn.Module, observes: bool) -> None:
    """Let the following passes move the running statistics, or not."""
    for module in encoder.modules():
        if isinstance(module, GroupedBatchNorm2d):
            module.observes = observes
