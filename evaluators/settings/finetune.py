"""What the task `finetune` can be told."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from evaluators.settings.base import CropScale, FeatureSettings


def _several(value: object) -> object:
    """A single number stands for a list of one; YAML takes 1e-3 for text."""
    return (value,) if isinstance(value, int | float | str) else value


class FinetuneSettings(FeatureSettings):
    """Backbone and linear classifier, trained together by SGD on augmented images, with BN in train mode."""

    seeded: ClassVar[bool] = True

    task: Literal["finetune"] = "finetune"
    epochs: int | None = Field(default=None, gt=0)
    """Passes over the training images; this or `steps`."""
    steps: int | None = Field(default=None, gt=0)
    """Batches; the last pass over the images ends where they are used up."""
    batch_size: int = Field(gt=0)
    """Global batch; the last one of a pass may be smaller."""
    lr: Annotated[tuple[PositiveFloat, ...], BeforeValidator(_several)] = Field(min_length=1)
    """Of the backbone, for the global batch as declared. With several, or several weight decays, the pair is chosen on
    held-out training images, and the training is done again on all of them."""
    weight_decay: Annotated[tuple[NonNegativeFloat, ...], BeforeValidator(_several)] = Field(min_length=1)
    decay_over_lr: bool = False
    """Whether the weight decay that is used is the one above divided by the learning rate."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class's training images on which a pair is chosen."""
    head_lr_factor: float = Field(default=1.0, gt=0)
    """The classifier's learning rate is this times the backbone's."""
    lr_random_init: float | None = Field(default=None, gt=0)
    """In place of `lr` where the backbone's weights are random, as papers do for training from scratch."""
    schedule: Literal["step", "cosine"] = "step"
    """An epoch at a time by `milestones` and `gamma`; or a batch at a time along half a cosine, to zero."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the learning rate is multiplied by `gamma`."""
    gamma: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    head_init: Literal["normal", "uniform"] = "normal"
    """N(0, `init_std`) with bias zero; or weights and bias uniform within ±1/√D, as `torch.nn.Linear` starts."""
    init_std: float = Field(default=0.01, ge=0)
    norm_images: int | None = Field(default=None, ge=2)
    """Over how many images of the global batch one batch normalisation runs, as a GPU's part of it did in the source;
    None: over all of them. It does not depend on how many processes share the batch."""
    crop_scale: CropScale = (0.08, 1.0)
    """Area range of the random resized crop."""
    train_list: str | None = None
    """A file that names the training images, `WNID_NUMBER.JPEG` a line, in the data set's root or by its path; None:
    all of them."""
    train_list_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the list's bytes; null admits any list."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("either epochs or steps")
        if self.schedule == "step" and self.epochs is None:
            raise ValueError("milestones count epochs: give epochs, or the cosine schedule")
        if self.norm_images is not None and self.batch_size % self.norm_images:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of norm_images {self.norm_images}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum")
        if self.train_list_sha256 is not None and self.train_list is None:
            raise ValueError("a sha256 without train_list")
        return self
