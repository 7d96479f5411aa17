"""From a protocol's settings and a backbone to detectron2's configuration. Built from `get_cfg()` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import get_cfg

from converters import to_detectron2
from converters.architectures import Architecture
from converters.metadata import BackboneMetadata, Preprocess
from evaluators.detection import heads
from evaluators.settings.detection import DetectionSettings


def build(
    settings: DetectionSettings,
    architecture: Architecture,
    backbone: BackboneMetadata,
    *,
    train: tuple[str, ...],
    test: str,
    norm: str,
    device: str,
    seed: int,
    output: Path,
) -> Any:
    """A frozen `CfgNode`.

    Args:
        settings: of the protocol.
        architecture: of the backbone.
        backbone: its header, whose input settings are taken over.
        train: registered names of the training splits.
        test: registered name of the test split.
        norm: detectron2's name of the norm that the device allows.
        device: as torch names it.
        seed: of this trial.
        output: folder for detectron2's own files.
    """
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(output), seed
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, (test,)
    cfg.DATALOADER.NUM_WORKERS = settings.workers

    _set_input(cfg, backbone.preprocess)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = settings.min_size_train, settings.max_size_train
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = settings.min_size_test, settings.max_size_test

    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""  # the backbone's tensors are copied in by name, not by detectron2's matching heuristics
    cfg.MODEL.MASK_ON = False
    # At its default of 2, detectron2 freezes stem and res2 and turns their norm into FrozenBN, whatever NORM says.
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.update(to_detectron2.resnet(architecture))
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = backbone.stride_in_1x1
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [list(sizes) for sizes in settings.anchor_sizes]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = settings.rpn_topk_train
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = settings.rpn_topk_test
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = settings.num_classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.rois_per_image
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = settings.foreground_share
    if settings.head == "C4":
        _set_c4(cfg)
    else:
        _set_fpn(cfg, settings, norm)

    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = settings.batch_size, settings.lr
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = settings.iterations, settings.steps
    cfg.SOLVER.WARMUP_ITERS = settings.warmup
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = settings.momentum, settings.weight_decay
    cfg.SOLVER.WEIGHT_DECAY_NORM = settings.weight_decay_norm
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.PRECISE_BN.ENABLED = settings.precise_bn
    cfg.TEST.PRECISE_BN.NUM_ITER = settings.precise_bn_iterations
    cfg.freeze()
    return cfg


def _set_input(cfg: Any, preprocess: Preprocess) -> None:
    """The backbone's channel order, mean and std, on the scale of bytes on which detectron2 reads images."""
    low, high = preprocess.value_range
    cfg.INPUT.FORMAT = preprocess.channel_order
    cfg.MODEL.PIXEL_MEAN = [255 * (mean - low) / (high - low) for mean in preprocess.mean]
    cfg.MODEL.PIXEL_STD = [255 * std / (high - low) for std in preprocess.std]


def _set_c4(cfg: Any) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.RPN.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.NAME = heads.NAME
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14


def _set_fpn(cfg: Any, settings: DetectionSettings, norm: str) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.OUT_CHANNELS = norm, settings.channels
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 2, settings.box_head_width
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
