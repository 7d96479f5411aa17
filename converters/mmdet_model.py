"""A real mmdetection detector, built from a written fragment and filled through mmengine's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from converters import mmcv_compat, openmmlab_model
from converters.architectures import ARCHITECTURES
from converters.backbone import Backbone
from converters.parity import LiveModel, quiet

mmcv_compat.prepare()
with quiet():  # mmcv warns about compiled operations that a ResNet does not use
    import mmdet.models  # noqa: F401 - fills the registry
    from mmdet.registry import MODELS

_CHANNELS = 8
"""Of neck and head, which prove nothing and should cost nothing."""


def build(fragment: Path, weights: Path, arch: str) -> nn.Module:
    """A `RetinaNet` with FPN on what the fragment describes, in eval mode on the CPU with the weights in."""

    def complete(model: dict[str, Any]) -> dict[str, Any]:
        neck = {
            "type": "FPN",
            "in_channels": list(ARCHITECTURES[arch].stage_widths),
            "out_channels": _CHANNELS,
            "num_outs": 5,
        }
        head = {
            "type": "RetinaHead",
            "num_classes": 3,
            "in_channels": _CHANNELS,
            "feat_channels": _CHANNELS,
            "stacked_convs": 1,
        }
        return {"type": "RetinaNet", **model, "neck": neck, "bbox_head": head}

    detector: nn.Module = openmmlab_model.build(fragment, weights, MODELS, complete)
    return detector


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What mmdetection makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    return openmmlab_model.run(build(fragment, weights, backbone.arch), backbone, picture)
