"""A real mmsegmentation segmentor, built from a written fragment and filled through mmengine's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters import keymap
from converters.architectures import ARCHITECTURES
from converters.backbone import Backbone
from converters.keymap import Stage
from converters.parity import LiveModel, identical, norm_of, quiet
from converters.receipt import live_tensors, openmmlab_receipt

with quiet():  # mmcv warns about compiled operations that FCN does not use
    import mmcv
    import mmseg.models  # noqa: F401 - fills the registry
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS


def build(fragment: Path, weights: Path, arch: str) -> nn.Module:
    """An `EncoderDecoder` on what the fragment describes, in eval mode on the CPU with the weights in."""
    cfg = Config.fromfile(str(fragment))
    cfg.model.backbone.init_cfg.checkpoint = str(weights)
    head = {
        "type": "FCNHead",
        "in_channels": ARCHITECTURES[arch].feature_dim,
        "in_index": 3,
        "channels": 8,
        "num_convs": 1,
        "num_classes": 3,
    }
    segmentor = {"type": "EncoderDecoder", **cfg.model, "decode_head": head, "test_cfg": {"mode": "whole"}}
    with quiet(), torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope("mmseg"):
        model: nn.Module = MODELS.build(segmentor)
        model.init_weights()  # type: ignore[operator]
    return model.eval()


@torch.no_grad()
def stages(model: Any, picture: Path) -> dict[Stage, Tensor]:
    """Outputs of the stem and of res2 to res5, through mmcv's image reader and the model's own preprocessor."""
    pixels = torch.from_numpy(mmcv.imread(str(picture), channel_order="bgr", backend="cv2").transpose(2, 0, 1).copy())
    x = model.data_preprocessor({"inputs": [pixels], "data_samples": None})["inputs"]
    resnet = model.backbone
    outputs: dict[Stage, Tensor] = {}
    for part in ("conv1", "norm1", "relu", "maxpool"):
        x = getattr(resnet, part)(x)
    outputs["stem"] = x
    for stage, layer in zip(keymap.STAGES[1:], resnet.res_layers, strict=True):
        x = outputs[stage] = getattr(resnet, layer)(x)
    return outputs


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What mmsegmentation makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    model = build(fragment, weights, backbone.arch)
    # `stages` reads by `mmcv.imread`, whose default is BGR.
    receipt = openmmlab_receipt(model, backbone.metadata, loaded_order="BGR")
    names = keymap.mmseg(backbone.arch, "backbone")
    return LiveModel(
        stages=stages(model, picture),
        receipt=receipt,
        norm=norm_of(model, "backbone.bn1"),
        loaded=identical(backbone, live_tensors(model, names)),
    )
