"""What a protocol is: a frozen, versioned recipe that says how a number is made. Pure data: no torch, no framework."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field, PositiveInt, model_validator

from converters.errors import UserError
from converters.settings import Settings, nearest, override

C = TypeVar("C", bound="KnnSettings | LinearSettings")


def _crop_fits(settings: C) -> C:
    """A centre crop larger than the resized image would be padded with black."""
    if settings.crop > settings.resize:
        raise ValueError(f"crop {settings.crop} must not exceed resize {settings.resize}")
    return settings


class KnnSettings(Settings):
    """Weighted kNN on frozen features."""

    seeded: ClassVar[bool] = False
    """Nothing in it is random: one trial says all."""

    task: Literal["knn"] = "knn"
    k: tuple[PositiveInt, ...] = Field(min_length=1)
    """Numbers of neighbours; one search at the largest serves all."""
    temperature: float = Field(gt=0)
    """T of the vote exp(cos / T)."""
    resize: int = Field(gt=0)
    """The shorter side after resizing, pixels."""
    crop: int = Field(gt=0)
    """The side of the centre crop, pixels."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    batch_size: int = Field(default=128, gt=0)
    workers: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        return _crop_fits(self)


class LinearSettings(Settings):
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
    crop: int = Field(gt=0)
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area range of the random resized crop."""
    resize: int = Field(gt=0)
    """The shorter side before the centre crop in validation, pixels."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    workers: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        return _crop_fits(self)


class DetectionSettings(Settings):
    """Faster R-CNN fine-tuned end to end in detectron2. No layer is frozen; training images are flipped at random."""

    seeded: ClassVar[bool] = True

    task: Literal["detection"] = "detection"
    layout: Literal["voc", "coco"]
    head: Literal["C4", "FPN"]
    """C4 has the extra normalisation after res5; FPN normalises backbone and FPN, its box head is two plain layers."""
    train_splits: tuple[str, ...] = Field(min_length=1)
    test_split: str
    iterations: int = Field(gt=0)
    steps: tuple[int, ...]
    """Iterations after which the learning rate falls tenfold."""
    warmup: int = Field(ge=0)
    """Iterations over which the learning rate rises linearly from a thousandth."""
    batch_size: int = Field(gt=0)
    """Images an iteration over all devices."""
    lr: float = Field(gt=0)
    """For the batch as declared."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """Of all weights but those of normalisation layers, which have `weight_decay_norm`."""
    weight_decay_norm: float = 0.0
    min_size_train: tuple[int, ...] = Field(min_length=1)
    """Candidates for the shorter side, pixels."""
    max_size_train: int = 1333
    min_size_test: int
    max_size_test: int = 1333
    norm: Literal["SyncBN", "naiveSyncBN", "BN"] = "SyncBN"
    precise_bn: bool = True
    """Measure the running statistics anew after training, over `precise_bn_iterations` batches."""
    precise_bn_iterations: int = Field(default=200, gt=0)
    channels: int = 256
    """Width of the FPN, and so of the RPN head and the boxes' features; C4 has no such layer."""
    box_head_width: int = 1024
    """Width of the two fully connected layers of the FPN's box head."""
    anchor_sizes: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    """Pixels. FPN: one tuple for each of p2 to p6; C4: one tuple with all sizes."""
    rois_per_image: int = 512
    """Proposals an image on which the box head is trained."""
    foreground_share: float = Field(default=0.25, gt=0, le=1)
    """The largest share of them that may lie on objects."""
    rpn_topk_train: tuple[int, int] = (12000, 2000)
    """Proposals before (for each level) and after NMS in training."""
    rpn_topk_test: tuple[int, int] = (6000, 1000)
    """Proposals before (for each level) and after NMS in testing."""
    num_classes: int = 20
    workers: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _levels(self) -> Self:
        levels = 1 if self.head == "C4" else 5
        if len(self.anchor_sizes) != levels:
            raise ValueError(f"the head {self.head} has {levels} level(s): give that many tuples in anchor_sizes")
        return self


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


TaskSettings = Annotated[
    KnnSettings | LinearSettings | DetectionSettings | SegmentationSettings, Field(discriminator="task")
]


class Expected(Settings):
    """A published number that this protocol should give."""

    method: str
    arch: str
    metric: str
    value: float
    spread: float | None = None
    """Standard deviation over trials, where the source prints one."""
    source: str


class Protocol(Settings):
    """A recipe under an id such as `linear-moco@1`; a change of any setting needs a new version."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*@[1-9][0-9]*$")
    title: str
    """The column head in tables."""
    citation: str
    definition: str
    """What the headline metric is, in a sentence."""
    headline: str = Field(min_length=1)
    """The name of the metric that tables show."""
    settings: TaskSettings
    expected: tuple[Expected, ...] = ()
    overrides: tuple[str, ...] = ()
    """Dotted assignments that were applied; any of them makes the result *modified*."""

    @property
    def task(self) -> str:
        """`knn`, `linear`, `detection` or `segmentation`."""
        return self.settings.task

    @property
    def modified(self) -> bool:
        """True when a setting differs from the frozen recipe."""
        return bool(self.overrides)

    def overridden(self, assignments: tuple[str, ...]) -> Self:
        """This protocol with dotted assignments to its settings, as `k=[1, 20]`.

        Raises:
            UserError: for an unknown setting or a wrong value.
        """
        assert not self.overrides, "overrides are counted from the frozen recipe"
        frozen, settings = self.settings.model_dump(mode="json"), override(self.settings, assignments)
        changed = settings.model_dump(mode="json")
        # However they were spelled, the same changes are the same column; what changes nothing is no override.
        overrides = tuple(f"{key}={json.dumps(changed[key])}" for key in sorted(frozen) if changed[key] != frozen[key])
        return self.model_copy(update={"settings": settings, "overrides": overrides})


def find(protocol_id: str, catalogue: dict[str, Protocol]) -> Protocol:
    """The protocol with this id.

    Raises:
        UserError: for an unknown id, with the nearest one.
    """
    if protocol_id not in catalogue:
        raise UserError(expected="the id of a protocol", found=repr(protocol_id), cure=nearest(protocol_id, catalogue))
    return catalogue[protocol_id]
