"""From a protocol's settings and a backbone to mmsegmentation's configuration. Pure data: loads no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters import to_openmmlab
from converters.architectures import Architecture
from converters.metadata import Preprocess
from evaluators.datasets.cityscapes import IGNORED
from evaluators.settings.segmentation import SegmentationSettings

_CROP_PADDING = {"pad_val": 0, "seg_pad_val": IGNORED}


def data_preprocessor(settings: SegmentationSettings, preprocess: Preprocess) -> dict[str, Any]:
    """Channel order, mean and std as the backbone needs them, on the scale of bytes; images are loaded as BGR.

    A training batch is padded to the crop, behind the normalisation; padded pixels are ignored by the loss.
    """
    low, high = preprocess.value_range
    return {
        "type": "SegDataPreProcessor",
        "mean": [255 * (mean - low) / (high - low) for mean in preprocess.mean],
        "std": [255 * std / (high - low) for std in preprocess.std],
        "bgr_to_rgb": preprocess.channel_order == "RGB",
        "size": (settings.crop, settings.crop),
        **_CROP_PADDING,
    }


def model(
    settings: SegmentationSettings,
    architecture: Architecture,
    preprocess: Preprocess,
    *,
    norm: str,
    stride_in_1x1: bool = False,
) -> dict[str, Any]:
    """An `EncoderDecoder` with `FCNHead` on the plain `ResNet`, whose stem is the 7x7 convolution of torchvision.

    The stock `fcn_r50-d8` has `ResNetV1c`, with a stem of three 3x3 convolutions into which these weights do not load.
    """
    norm_cfg = {"type": norm, "requires_grad": True}
    head = {
        "type": "FCNHead",
        "num_classes": settings.num_classes,
        "norm_cfg": norm_cfg,
        "dropout_ratio": settings.dropout,
        "align_corners": settings.align_corners,
        "ignore_index": IGNORED,
    }
    test_cfg: dict[str, Any] = {"mode": settings.test_mode}
    if settings.test_mode == "slide":
        test_cfg |= {
            "crop_size": (settings.crop, settings.crop),
            "stride": (settings.slide_stride, settings.slide_stride),
        }
    segmentor: dict[str, Any] = {
        "type": "EncoderDecoder",
        "data_preprocessor": data_preprocessor(settings, preprocess),
        "backbone": {
            **to_openmmlab.resnet(architecture, "mmseg"),
            "num_stages": 4,
            "out_indices": (0, 1, 2, 3),
            "strides": settings.strides,
            "dilations": settings.dilations,
            "contract_dilation": settings.contract_dilation,
            "style": "caffe" if stride_in_1x1 else "pytorch",
            "norm_cfg": norm_cfg,
            "norm_eval": False,
            "frozen_stages": -1,
        },
        "decode_head": {
            **head,
            "in_channels": architecture.stage_widths[3],
            "in_index": 3,
            "channels": settings.head_channels,
            "num_convs": settings.head_convs,
            "dilation": settings.head_dilation,
            "concat_input": settings.concat_input,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        },
        "train_cfg": {},
        "test_cfg": test_cfg,
    }
    if settings.auxiliary_weight > 0:
        segmentor["auxiliary_head"] = {
            **head,
            "in_channels": architecture.stage_widths[2],
            "in_index": 2,
            "channels": settings.auxiliary_channels,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {
                "type": "CrossEntropyLoss",
                "use_sigmoid": False,
                "loss_weight": settings.auxiliary_weight,
            },
        }
    return segmentor


def train_dataloader(settings: SegmentationSettings, root: Path) -> dict[str, Any]:
    """Random scale, crop and flip of the training split, without end."""
    pipeline: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        {
            "type": "RandomResize",
            "scale": settings.scale,
            "ratio_range": settings.scale_range,
            "keep_ratio": True,
        },
        {
            "type": "RandomCrop",
            "crop_size": (settings.crop, settings.crop),
            "cat_max_ratio": settings.crop_max_share,
            "ignore_index": IGNORED,
        },
        {"type": "RandomFlip", "prob": 0.5},
    ]
    if settings.photometric_distortion:
        pipeline.append({"type": "PhotoMetricDistortion"})
    pipeline.append({"type": "PackSegInputs"})
    return {
        "batch_size": settings.batch_size,
        **_workers(settings),
        "sampler": {"type": "InfiniteSampler", "shuffle": True},
        "dataset": _dataset(root, settings.train_split, pipeline),
    }


def test_dataloader(settings: SegmentationSettings, root: Path) -> dict[str, Any]:
    """The test split at its original size, image by image."""
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    return {
        "batch_size": 1,
        **_workers(settings),
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": _dataset(root, settings.test_split, pipeline),
    }


def optim_wrapper(settings: SegmentationSettings) -> dict[str, Any]:
    """SGD on all parameters."""
    return {
        "type": "OptimWrapper",
        "optimizer": {
            "type": "SGD",
            "lr": settings.lr,
            "momentum": settings.momentum,
            "weight_decay": settings.weight_decay,
        },
        "clip_grad": None,
    }


def param_scheduler(settings: SegmentationSettings) -> list[dict[str, Any]]:
    """The learning rate of each iteration."""
    if settings.schedule == "step":
        return [{"type": "MultiStepLR", "milestones": list(settings.steps), "gamma": 0.1, "by_epoch": False}]
    return [
        {
            "type": "PolyLR",
            "power": settings.power,
            "eta_min": settings.min_lr,
            "begin": 0,
            "end": settings.iterations,
            "by_epoch": False,
        }
    ]


def _dataset(root: Path, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "CityscapesDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"},
        "pipeline": pipeline,
    }


def _workers(settings: SegmentationSettings) -> dict[str, Any]:
    return {"num_workers": settings.workers, "persistent_workers": settings.workers > 0}
