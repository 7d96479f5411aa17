"""The linear probe as facebookresearch/moco@7397dfe main_lincls.py runs it, in one plain loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def train(
    model: nn.Module,
    epochs: list[list[tuple[Tensor, Tensor]]],
    *,
    lr: float,
    milestones: tuple[int, ...],
    momentum: float,
    weight_decay: float,
) -> list[float]:
    """Train `model.fc` in place on ready-made batches; the loss of every step."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in ("fc.weight", "fc.bias")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr, momentum=momentum, weight_decay=weight_decay)
    losses = []
    for epoch, batches in enumerate(epochs):
        current = lr
        for milestone in milestones:
            current *= 0.1 if epoch >= milestone else 1.0
        for group in optimizer.param_groups:
            group["lr"] = current
        model.eval()
        for images, target in batches:
            loss = nn.CrossEntropyLoss()(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses
