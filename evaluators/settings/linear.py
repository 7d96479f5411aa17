"""What the task `linear` can be told."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from evaluators.settings.base import FeatureSettings


class LinearSettings(FeatureSettings):
    """A linear classifier on the frozen backbone, trained by SGD on augmented images."""

    seeded: ClassVar[bool] = True

    task: Literal["linear"] = "linear"
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    """Global batch."""
    lr: float = Field(gt=0)
    """For the global batch as declared."""
    milestones: tuple[int, ...]
    """Epochs after which the learning rate falls tenfold."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    init_std: float = Field(default=0.01, ge=0)
    """Of the normal distribution that the classifier's weights start from; its bias starts at zero."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area range of the random resized crop."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
