"""What the tasks that fit linear classifiers to cached features can be told."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from evaluators.settings.base import FeatureSettings


class LogisticSettings(FeatureSettings):
    """Logistic regression by L-BFGS, its regularisation chosen on held-out training images, then fitted to all."""

    penalties: int = Field(default=45, ge=1)
    """How many λ = 1/C, evenly spaced in their logarithm; tried from the lowest, each from the solution before it."""
    lowest_penalty: float = Field(default=1e-6, gt=0)
    highest_penalty: float = Field(default=1e5, gt=0)
    iterations: int = Field(default=100, gt=0)
    """Of L-BFGS, at most, for each λ."""
    tolerance: float = Field(default=1e-4, gt=0)
    """A fit has converged where no component of the gradient, summed over the images, is larger."""
    solver_precision: Literal["float32", "float64"] = "float64"
    """In which features and weights are multiplied; sums over blocks of images are in float64."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the training images on which λ is chosen."""
    held_out_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.lowest_penalty > self.highest_penalty:
            raise ValueError(
                f"lowest_penalty {self.lowest_penalty:g} is above highest_penalty {self.highest_penalty:g}"
            )
        return self


class CachedSettings(LogisticSettings):
    """Two linear classifiers on cached features without augmentation: by L-BFGS, and by SGD as in the linear probe."""

    seeded: ClassVar[bool] = False
    """The headline solves a convex problem to its end: the seed orders the batches of SGD alone."""

    task: Literal["linear-cached"] = "linear-cached"
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    iterations: int = Field(default=5000, gt=0)
    """Of L-BFGS, at most, for each λ: a limit for what cannot be solved, not a place to stop."""
    tolerance: float = Field(default=1e-3, gt=0)
    """A fit has converged where the gradient's norm is at most this share of λ‖W‖, the norm of the penalty's gradient:
    with the bias at its best, W is then within this share of its norm from the solution."""
    sgd_epochs: int = Field(default=100, gt=0)
    sgd_batch_size: int = Field(default=256, gt=0)
    sgd_lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """For the batch as declared; one head each, the best on the held-out images is trained again on all."""
    sgd_milestones: tuple[int, ...] = (60, 80)
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    init_std: float = Field(default=0.01, ge=0)


class ManyshotSettings(LogisticSettings):
    """Logistic regression by L-BFGS on all training images of a data set."""

    seeded: ClassVar[bool] = False

    task: Literal["manyshot"] = "manyshot"
    metric: Literal["top1", "mean_per_class", "map11"]
    """What chooses λ. `map11`: a regression a class on PASCAL VOC, whose images have several; else an image folder."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    train_split: str = "2007_trainval"
    """For `map11`: what is fitted in the end."""
    held_out_split: str = "2007_val"
    """For `map11`: the part of it on which λ is chosen, in place of a share."""
    test_split: str = "2007_test"
