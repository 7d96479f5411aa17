"""The learning rate, set once an epoch as in the reference (facebookresearch/moco@7397dfe, `adjust_learning_rate`)."""

from __future__ import annotations

import math

from pretrain.recipes import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate of `epoch` (from 0): no warm-up, and the last epoch's is not 0."""
    if recipe.schedule == "cosine":
        return recipe.base_lr * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    passed = sum(epoch >= milestone for milestone in recipe.milestones)
    return recipe.base_lr * recipe.lr_decay**passed
