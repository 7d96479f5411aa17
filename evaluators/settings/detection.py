"""What the task `detection` can be told."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from converters.settings import Settings


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
