"""What a protocol is: a frozen, versioned recipe that says how a number is made. Pure data: no torch, no framework."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from converters.errors import UserError
from converters.settings import Settings, nearest, override


class KnnSettings(Settings):
    """Weighted kNN on frozen features."""

    task: Literal["knn"] = "knn"
    k: tuple[int, ...]
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


class LinearSettings(Settings):
    """A linear classifier on the frozen backbone, trained by SGD on augmented images."""

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
    crop: int = Field(gt=0)
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area range of the random resized crop."""
    resize: int = Field(gt=0)
    """The shorter side before the centre crop in validation, pixels."""
    workers: int = Field(default=4, ge=0)


class DetectionSettings(Settings):
    """Faster R-CNN fine-tuned end to end in detectron2."""

    task: Literal["detection"] = "detection"
    layout: Literal["voc", "coco"]
    head: Literal["C4", "FPN"]
    """C4 has the extra normalisation after res5; FPN normalises backbone and FPN."""
    train_splits: tuple[str, ...]
    test_split: str
    iterations: int = Field(gt=0)
    steps: tuple[int, ...]
    """Iterations after which the learning rate falls tenfold."""
    warmup: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    """Images an iteration over all devices."""
    lr: float = Field(gt=0)
    min_size_train: tuple[int, ...]
    """Candidates for the shorter side, pixels."""
    max_size_train: int = 1333
    min_size_test: int
    max_size_test: int = 1333
    norm: Literal["SyncBN", "naiveSyncBN", "BN"] = "SyncBN"
    precise_bn: bool = True
    precise_bn_iterations: int = 200
    channels: int = 256
    """Width of FPN and RPN head."""
    anchor_sizes: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    """One tuple a level; C4 takes one tuple with all sizes."""
    rois_per_image: int = 512
    rpn_topk_test: tuple[int, int] = (6000, 1000)
    """Proposals before and after NMS in testing."""
    num_classes: int = 20
    workers: int = Field(default=4, ge=0)


class SegmentationSettings(Settings):
    """FCN on a plain ResNet, fine-tuned end to end in mmsegmentation."""

    task: Literal["segmentation"] = "segmentation"
    layout: Literal["cityscapes"]
    iterations: int = Field(gt=0)
    schedule: Literal["poly", "step"]
    steps: tuple[int, ...] = ()
    """For `step`: iterations after which the learning rate falls tenfold."""
    lr: float = Field(gt=0)
    min_lr: float = 0.0
    """For `poly`."""
    weight_decay: float
    momentum: float = 0.9
    batch_size: int = Field(gt=0)
    scale: tuple[int, int]
    """Width and height of the image before the random scale, pixels."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    crop: int = Field(gt=0)
    strides: tuple[int, int, int, int]
    dilations: tuple[int, int, int, int]
    contract_dilation: bool = False
    """Halve the dilation of a dilated stage's first block."""
    head_channels: int
    head_convs: int = 2
    head_dilation: int = 1
    concat_input: bool = False
    dropout: float = 0.0
    auxiliary_weight: float = 0.0
    """Weight of the loss of an auxiliary head on res4; 0 for none."""
    align_corners: bool = False
    photometric_distortion: bool = False
    test_mode: Literal["whole", "slide"] = "whole"
    slide_stride: int = 0
    num_classes: int = 19
    workers: int = Field(default=4, ge=0)


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
        if not assignments:
            return self
        settings = override(self.settings, assignments)
        return self.model_copy(update={"settings": settings, "overrides": (*self.overrides, *assignments)})


def find(protocol_id: str, catalogue: dict[str, Protocol]) -> Protocol:
    """The protocol with this id.

    Raises:
        UserError: for an unknown id, with the nearest one.
    """
    if protocol_id not in catalogue:
        raise UserError(expected="the id of a protocol", found=repr(protocol_id), cure=nearest(protocol_id, catalogue))
    return catalogue[protocol_id]
