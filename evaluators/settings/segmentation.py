"""What the task `segmentation` can be told."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from converters.settings import Settings


class SegmentationSettings(Settings):
    """FCN on a plain ResNet, fine-tuned end to end in mmsegmentation. Training images are flipped at random."""

    seeded: ClassVar[bool] = True

    task: Literal["segmentation"] = "segmentation"
    layout: Literal["cityscapes"]
    train_split: str = "train"
    test_split: str = "val"
    iterations: int = Field(gt=0)
    schedule: Literal["poly", "step"]
    steps: tuple[int, ...] = ()
    """For `step`: iterations after which the learning rate falls tenfold."""
    lr: float = Field(gt=0)
    """For the batch as declared."""
    power: float = 0.9
    """For `poly`."""
    min_lr: float = 0.0
    """For `poly`."""
    weight_decay: float
    momentum: float = 0.9
    batch_size: int = Field(gt=0)
    """Images an iteration over all devices."""
    scale: tuple[int, int]
    """Width and height of the image before the random scale, pixels."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    crop: int = Field(gt=0)
    """Side of the random square crop, pixels."""
    crop_max_share: float = Field(default=1.0, gt=0, le=1)
    """A crop in which one class fills more than this is drawn anew, ten times at most; 1 takes every crop."""
    photometric_distortion: bool = False
    """mmsegmentation's random brightness, contrast, saturation and hue."""
    norm: Literal["SyncBN", "BN"] = "SyncBN"
    strides: tuple[int, int, int, int]
    """Of res2 to res5."""
    dilations: tuple[int, int, int, int]
    contract_dilation: bool = False
    """Halve the dilation of a dilated stage's first block."""
    head_channels: int
    head_convs: int = 2
    head_dilation: int = 1
    concat_input: bool = False
    """Join res5 to the head's features before the last convolution."""
    dropout: float = 0.0
    auxiliary_weight: float = 0.0
    """Weight of the loss of an auxiliary head on res4; 0 for none."""
    auxiliary_channels: int = 256
    align_corners: bool = False
    test_mode: Literal["whole", "slide"] = "whole"
    """At the original size: in one piece, or in windows of `crop` pixels every `slide_stride` pixels."""
    slide_stride: int = 0
    num_classes: int = 19
    workers: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _slides(self) -> Self:
        if self.test_mode == "slide" and self.slide_stride <= 0:
            raise ValueError("test_mode slide needs a slide_stride above 0")
        return self
