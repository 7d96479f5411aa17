"""End-to-end fine-tuning as a plain loop of torch: its own optimizer groups and its own schedulers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train(
    model: nn.Module,
    epochs: Sequence[Sequence[tuple[Tensor, Tensor]]],
    *,
    lr: float,
    head_factor: float,
    weight_decay: float,
    nesterov: bool,
    milestones: Sequence[int] | None,
    gamma: float = 0.1,
) -> list[float]:
    """Train all of `model`, its classifier `fc` with its own lr; milestones in epochs, or a cosine over all steps."""
    steps = sum(len(epoch) for epoch in epochs)
    classifier = list(model.get_submodule("fc").parameters())
    backbone = [p for p in model.parameters() if not any(p is q for q in classifier)]
    sgd = torch.optim.SGD(
        [{"params": backbone}, {"params": classifier, "lr": lr * head_factor}],
        lr=lr,
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=weight_decay,
    )
    by_epoch = None if milestones is None else torch.optim.lr_scheduler.MultiStepLR(sgd, list(milestones), gamma)
    by_step = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps) if milestones is None else None
    model.train()
    losses = []
    for epoch in epochs:
        for images, labels in epoch:
            sgd.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            sgd.step()
            losses.append(loss.item())
            if by_step is not None:
                by_step.step()
        if by_epoch is not None:
            by_epoch.step()
    return losses
