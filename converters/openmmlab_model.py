"""What the real models of OpenMMLab's frameworks have in common: built by mmengine, filled by its own loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters import keymap, no_init, to_openmmlab
from converters.backbone import Backbone
from converters.errors import UserError
from converters.filling import fill
from converters.keymap import Stage
from converters.parity import LiveModel, identical, norm_of, quiet, staged
from converters.receipt import live_tensors, openmmlab_receipt

with quiet():  # mmcv warns about compiled operations that a ResNet does not use
    import mmcv
    from mmengine.config import Config
    from mmengine.registry import DefaultScope


def build(fragment: Path, weights: Path, registry: Any, complete: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The model that the fragment describes, in eval mode on the CPU with the weights in.

    Args:
        fragment: a Python configuration; it is run.
        weights: what `init_cfg` loads, whatever the fragment names.
        registry: the framework's `MODELS`.
        complete: the fragment's `model` -> one that has heads too.
    """
    cfg = Config.fromfile(str(fragment))
    cfg.model.backbone.init_cfg.checkpoint = str(weights)
    with quiet(), torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope(registry.scope):
        with no_init.zeros_for_draws():
            model: Any = registry.build(complete(cfg.model))
        model.init_weights()
    return model.eval()


@torch.no_grad()
def stages(model: Any, picture: Path) -> dict[Stage, Tensor]:
    """Outputs of the stem and of res2 to res5, through mmcv's image reader and the model's own preprocessor."""
    pixels = torch.from_numpy(mmcv.imread(str(picture), channel_order="bgr", backend="cv2").transpose(2, 0, 1).copy())
    x = model.data_preprocessor({"inputs": [pixels], "data_samples": None})["inputs"]
    return staged(model.backbone, x, ("conv1", "norm1", "relu", "maxpool"), model.backbone.res_layers)


def run(model: nn.Module, backbone: Backbone, picture: Path) -> LiveModel:
    """What a built model holds and computes.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    # `stages` reads by `mmcv.imread`, whose default is BGR.
    receipt = openmmlab_receipt(model, backbone.metadata, loaded_order="BGR")
    names = keymap.mmseg(backbone.arch, "backbone")
    return LiveModel(
        stages=stages(model, picture),
        receipt=receipt,
        norm=norm_of(model, "backbone.bn1"),
        loaded=identical(backbone, live_tensors(model, names)),
    )


def live_backbone(
    backbone: Backbone, registry: Any, framework: to_openmmlab.Framework, norm: str, overrides: dict[str, Any]
) -> nn.Module:
    """A framework's own backbone with the weights in, in training mode; see `mmseg_model.live_backbone`."""
    if norm not in ("SyncBN", "BN"):
        raise UserError(expected="a norm of SyncBN, BN", found=repr(norm), where="live_backbone")
    settings = to_openmmlab.backbone_settings(backbone.metadata, framework, norm) | overrides
    with quiet(), no_init.zeros_for_draws(), DefaultScope.overwrite_default_scope(registry.scope):
        live: nn.Module = registry.build(settings)
    fill(live, backbone, keymap.mmseg(backbone.arch))
    live.train()  # returns nothing in OpenMMLab's ResNets
    return live
