"""Facts about data sets and published recipes that a configuration is held against.

Sources: facebookresearch/moco@7397dfe, detection/configs (VOC 24k, COCO 2x); detectron2's Base-RCNN-FPN.yaml (COCO 1x);
He et al., arXiv:1911.05722, appendix A.1 and A.5; open-mmlab/mmselfsup (1.x), configs/benchmarks; mmseg 1.x,
configs/fcn.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """What is known of one."""

    name: str
    classes: int


@dataclass(frozen=True)
class Schedule:
    """A published training length."""

    name: str
    iterations: int
    steps: tuple[int, ...]
    """Empty for a polynomial schedule."""
    batch: int
    """Images an iteration, over all devices."""
    lr: float


_DETECTRON2 = {
    # Prefixes of registered names, the longer first.
    "keypoints_coco_": DataSet("COCO keypoints", 1),
    "coco_": DataSet("COCO", 80),
    "voc_2007_": DataSet("VOC", 20),
    "voc_2012_": DataSet("VOC", 20),
    "cityscapes_fine_instance_seg_": DataSet("Cityscapes instances", 8),
    "lvis_v0.5_": DataSet("LVIS v0.5", 1230),
    "lvis_v1_": DataSet("LVIS v1", 1203),
}

_MMSEG = {
    "CityscapesDataset": DataSet("Cityscapes", 19),
    "PascalVOCDataset": DataSet("VOC", 21),
    "ADE20KDataset": DataSet("ADE20K", 150),
    "PascalContextDataset": DataSet("PASCAL Context", 60),
    "PascalContextDataset59": DataSet("PASCAL Context 59", 59),
    "COCOStuffDataset": DataSet("COCO-Stuff", 171),
}
_MMDET = {
    "CocoDataset": DataSet("COCO", 80),
    "VOCDataset": DataSet("VOC", 20),
    "CityscapesDataset": DataSet("Cityscapes instances", 8),
    "LVISV05Dataset": DataSet("LVIS v0.5", 1230),
    "LVISDataset": DataSet("LVIS v1", 1203),
    "LVISV1Dataset": DataSet("LVIS v1", 1203),
}
_MMPRETRAIN = {
    "ImageNet": DataSet("ImageNet", 1000),
    "CIFAR10": DataSet("CIFAR-10", 10),
    "CIFAR100": DataSet("CIFAR-100", 100),
}

_OPENMMLAB = {"mmseg": _MMSEG, "mmdet": _MMDET, "mmpretrain": _MMPRETRAIN}


def detectron2_data_set(name: str) -> DataSet | None:
    """The data set behind a name of detectron2's catalogue; None for an unknown one."""
    return next((known for prefix, known in _DETECTRON2.items() if name.startswith(prefix)), None)


def openmmlab_data_set(framework: str, kind: str) -> DataSet | None:
    """The data set behind the `type` of a data set in an OpenMMLab configuration; None for an unknown one."""
    return _OPENMMLAB[framework].get(kind.rpartition(".")[2])


SCHEDULES: dict[str, tuple[Schedule, ...]] = {
    "VOC": (Schedule("voc0712-c4-24k", 24_000, (18_000, 22_000), 16, 0.02),),
    "COCO": (
        Schedule("1x", 90_000, (60_000, 80_000), 16, 0.02),
        Schedule("2x", 180_000, (120_000, 160_000), 16, 0.02),
        Schedule("6x", 540_000, (480_000, 520_000), 16, 0.02),
    ),
    "COCO keypoints": (Schedule("2x", 180_000, (120_000, 160_000), 16, 0.02),),
    "Cityscapes instances": (Schedule("24k", 24_000, (18_000,), 8, 0.01),),
    "LVIS v0.5": (
        Schedule("1x", 90_000, (60_000, 80_000), 16, 0.02),
        Schedule("2x", 180_000, (120_000, 160_000), 16, 0.02),
    ),
}
"""For detection, by the data set's name."""

SEGMENTATION_SCHEDULES: dict[str, tuple[Schedule, ...]] = {
    "Cityscapes": (
        Schedule("cityscapes-fcn16-90k", 90_000, (63_000, 81_000), 16, 0.01),
        Schedule("cityscapes-fcn-d8-40k", 40_000, (), 8, 0.01),
    ),
    "VOC": (
        Schedule("voc12aug-fcn16-30k", 30_000, (21_000, 27_000), 16, 0.003),
        Schedule("voc12aug-fcn-d8-20k", 20_000, (), 16, 0.01),
    ),
}

EPOCHS = {"COCO": (12, 24, 72)}
"""Published lengths in epochs, where OpenMMLab counts those: COCO 1x, 2x and 6x."""

VOC_WARMUP = 100
"""Iterations."""

FEW_IMAGES = 8
"""Below so many images a device, plain batch norm has poor statistics (Wu and He, arXiv:1803.08494, figure 1, show the
error of batch norm rising below 16 and steeply below 8)."""
