"""A real mmsegmentation segmentor, built from a written fragment and filled through mmengine's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from converters import openmmlab_model
from converters.architectures import ARCHITECTURES
from converters.backbone import Backbone
from converters.parity import LiveModel, quiet

with quiet():  # mmcv warns about compiled operations that FCN does not use
    import mmseg.models  # noqa: F401 - fills the registry
    from mmseg.registry import MODELS


def build(fragment: Path, weights: Path, arch: str) -> nn.Module:
    """An `EncoderDecoder` on what the fragment describes, in eval mode on the CPU with the weights in."""

    def complete(model: dict[str, Any]) -> dict[str, Any]:
        head = {
            "type": "FCNHead",
            "in_channels": ARCHITECTURES[arch].feature_dim,
            "in_index": 3,
            "channels": 8,
            "num_convs": 1,
            "num_classes": 3,
        }
        return {"type": "EncoderDecoder", **model, "decode_head": head, "test_cfg": {"mode": "whole"}}

    segmentor: nn.Module = openmmlab_model.build(fragment, weights, MODELS, complete)
    return segmentor


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What mmsegmentation makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    return openmmlab_model.run(build(fragment, weights, backbone.arch), backbone, picture)


def live_backbone(backbone: Backbone, norm: str = "SyncBN", **overrides: Any) -> nn.Module:
    """A `ResNet` or `ResNeXt` of mmsegmentation with the weights in: N×3×H×W -> a tuple of four feature maps.

    In training mode, everything trainable, no norm in eval mode, unless an override says otherwise. Every tensor is
    compared, bit for bit, and every layer looked at (`converters.layers`), before it is returned.

    Args:
        backbone: the weights.
        norm: `SyncBN`; on one GPU or a CPU `BN`.
        overrides: further arguments of the class, as `strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)` for an output
            stride of 8.

    Raises:
        UserError: for another norm, or an architecture that mmsegmentation cannot build.
        CheckFailed: if a tensor is not in it, the stride lies elsewhere, or an override adds tensors or makes layers
            compute something else.
    """
    return openmmlab_model.live_backbone(backbone, MODELS, "mmseg", norm, overrides)
