"""A real mmpretrain classifier, built from a written fragment and filled through mmengine's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from converters import openmmlab_model
from converters.architectures import ARCHITECTURES
from converters.backbone import Backbone
from converters.parity import LiveModel, quiet

with quiet():  # mmcv warns about compiled operations that a ResNet does not use
    import mmpretrain.models  # noqa: F401 - fills the registry
    from mmpretrain.registry import MODELS


def build(fragment: Path, weights: Path, arch: str) -> nn.Module:
    """An `ImageClassifier` on what the fragment describes, in eval mode on the CPU with the weights in."""

    def complete(model: dict[str, Any]) -> dict[str, Any]:
        head = {"type": "LinearClsHead", "num_classes": 3, "in_channels": ARCHITECTURES[arch].feature_dim}
        return {"type": "ImageClassifier", **model, "neck": {"type": "GlobalAveragePooling"}, "head": head}

    classifier: nn.Module = openmmlab_model.build(fragment, weights, MODELS, complete)
    return classifier


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What mmpretrain makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    return openmmlab_model.run(build(fragment, weights, backbone.arch), backbone, picture)
