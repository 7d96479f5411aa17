"""The learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evaluators.settings.finetune import FinetuneSettings


@dataclass(frozen=True)
class Plan:
    """How many steps there are, and the factor on the learning rate in each."""

    settings: FinetuneSettings
    images: int
    """Training images."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a pass over the images."""
        return math.ceil(self.images / self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Batches in all."""
        if self.settings.steps is not None:
            return self.settings.steps
        assert self.settings.epochs is not None, "the settings have checked it"
        return self.settings.epochs * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Passes over the images, the last one perhaps not whole."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """Batches of a pass (0 is the first)."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by in a step (0 is the first)."""
        if self.settings.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        passed = sum(step // self.steps_per_epoch >= milestone for milestone in self.settings.milestones)
        return float(self.settings.gamma**passed)
