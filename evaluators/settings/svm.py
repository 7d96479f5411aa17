"""What the task `svm` can be told."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from evaluators.features.layers import Layer
from evaluators.settings.base import FeatureSettings


class SvmSettings(FeatureSettings):
    """One linear support vector machine a class on frozen features, with all training images and with few of them."""

    seeded: ClassVar[bool] = True

    task: Literal["svm"] = "svm"
    train_split: str = "2007_trainval"
    """As `2007_trainval`: year and list."""
    test_split: str = "2007_test"
    layers: tuple[Layer, ...] = Field(min_length=1)
    """Each stage at most once; the best is reported."""
    costs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """C, the weight of the loss against the norm; among equals the first is chosen."""
    folds: int = Field(default=3, ge=2)
    """Of the cross-validation that chooses C, stratified, in the order of the images."""
    positive_weight: float = Field(default=2.0, gt=0)
    """Of the loss on images with the class; the others have 1."""
    ignored_in_training: Literal["negative", "left out"] = "negative"
    """What an image is, all of whose objects of the class are difficult, when all training images are used."""
    intercept_scaling: float = Field(default=1.0, gt=0)
    tolerance: float = Field(default=1e-4, gt=0)
    max_iterations: int = Field(default=2000, gt=0)
    low_shot_k: tuple[PositiveInt, ...] = ()
    """Numbers of positive images a class."""
    low_shot_samples: int = Field(default=5, gt=0)
    """Independent draws for every k."""
    low_shot_negatives: int = Field(default=19, gt=0)
    """Negative images a positive one."""

    @model_validator(mode="after")
    def _stages_once(self) -> Self:
        stages = [layer.stage for layer in self.layers]
        if len(set(stages)) < len(stages):
            raise ValueError(f"each stage at most once, not {stages}")
        return self
