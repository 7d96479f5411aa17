"""What the tasks that train linear classifiers can be told."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from evaluators.settings.base import CropScale, FeatureSettings


class ProbeSettings(FeatureSettings):
    """Linear classifiers on the frozen backbone, trained by SGD on augmented images."""

    seeded: ClassVar[bool] = True

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    """Global batch, over all processes."""
    lr: float = Field(gt=0)
    """For the global batch as declared."""
    weight_decay: float = Field(default=0.0, ge=0)
    milestones: tuple[int, ...]
    """Epochs after which the learning rate falls tenfold."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    init_std: float = Field(default=0.01, ge=0)
    """Of the normal distribution that the classifier's weights start from; its bias starts at zero."""
    crop_scale: CropScale = (0.08, 1.0)
    """Area range of the random resized crop."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"


class LinearSettings(ProbeSettings):
    """One linear classifier."""

    task: Literal["linear"] = "linear"


class MultiheadSettings(ProbeSettings):
    """A head for every learning rate, weight decay and seed; `lr` and `weight_decay` are those of the reference."""

    task: Literal["linear-multihead"] = "linear-multihead"
    lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """For the global batch as declared."""
    weight_decays: tuple[NonNegativeFloat, ...] = Field(min_length=1)
    head_seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """Each draws first weights of its own; one order of the images and one set of views serve all heads."""
    held_out: float = Field(gt=0, lt=1)
    """Share of each class's training images on which the winner is chosen; no head is trained on them."""
    held_out_seed: int = Field(default=0, ge=0)
    """Which images those are; no trial seed changes them, so that trials and backbones compare on equal terms."""

    @model_validator(mode="after")
    def _reference_is_among_them(self) -> Self:
        for name, value, grid in (("lr", self.lr, self.lrs), ("weight_decay", self.weight_decay, self.weight_decays)):
            if value not in grid:
                raise ValueError(f"the reference's {name} {value:g} must be in {name}s")
        for name in ("lrs", "weight_decays", "head_seeds"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} must not repeat a value")
        return self
