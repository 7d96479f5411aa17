"""A real detectron2 detector, built from a written fragment and filled through detectron2's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters import detectron2_compat, keymap, no_init, to_detectron2
from converters.backbone import Backbone
from converters.errors import UserError
from converters.filling import fill
from converters.keymap import Stage
from converters.parity import LiveModel, identical, norm_of, quiet
from converters.receipt import detectron2_receipt, live_tensors

detectron2_compat.prepare()
with quiet():  # its imports warn about their own use of torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.data.detection_utils import read_image
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_model, build_resnet_backbone


def build(fragment: Path, weights: Path) -> tuple[nn.Module, Any]:
    """The detector that the fragment describes, in eval mode on the CPU with the weights in, and its configuration."""
    cfg = get_cfg()
    cfg.merge_from_file(str(fragment))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(weights)
    with quiet():
        with no_init.zeros_for_draws():
            model: nn.Module = build_model(cfg)
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model.eval(), cfg


@torch.no_grad()
def stages(model: Any, cfg: Any, picture: Path) -> dict[Stage, Tensor]:
    """Outputs of the stem and of res2 to res5, through detectron2's own image reader and normalisation."""
    pixels = read_image(str(picture), format=cfg.INPUT.FORMAT)
    image = torch.as_tensor(pixels.astype("float32").transpose(2, 0, 1).copy())
    x = model.preprocess_image([{"image": image}]).tensor
    # Below an FPN, the ResNet is `bottom_up`; in a C4 detector its res5 works on regions and lies in the head.
    resnet = getattr(model.backbone, "bottom_up", model.backbone)
    outputs: dict[Stage, Tensor] = {}
    for stage in keymap.STAGES:
        module = getattr(resnet, stage, None)
        x = outputs[stage] = (module if module is not None else getattr(model.roi_heads, stage))(x)
    return outputs


def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path) -> LiveModel:
    """What detectron2 makes of the two files.

    Raises:
        CheckFailed: if the receipt does not hold.
    """
    model, cfg = build(fragment, weights)
    receipt = detectron2_receipt(model, cfg, backbone.metadata)
    place = keymap.detectron2_place(model.state_dict())
    assert place is not None, "the receipt found the ResNet"
    names = keymap.detectron2(backbone.arch, place)
    return LiveModel(
        stages=stages(model, cfg, picture),
        receipt=receipt,
        norm=norm_of(model, names.names["bn1.weight"].removesuffix(".weight")),
        loaded=identical(backbone, live_tensors(model, names)),
    )


NORMS = ("SyncBN", "naiveSyncBN", "nnSyncBN", "BN", "FrozenBN")
"""detectron2's names of the batch norms."""


def live_backbone(backbone: Backbone, kind: to_detectron2.Head = "C4", norm: str = "SyncBN") -> Any:
    """A `Backbone` of detectron2 with the weights in: N×3×H×W -> a dict of feature maps, told by its `output_shape()`.

    In training mode, everything trainable. Every tensor is compared, bit for bit, before it is returned.

    Args:
        backbone: the weights.
        kind: `FPN`: the whole ResNet (318 tensors of ResNet-50), with outputs res2 to res5, as an FPN's `bottom_up`.
            `C4`: without res5 (258 tensors), with the output res4. The other 60 belong to the head of a C4 detector,
            under `roi_heads.res5.` (see `keymap.detectron2(arch, "C4")`), where `DetectionCheckpointer` puts them from
            the `.pkl` of a conversion.
        norm: detectron2's name of the norm: `SyncBN`; on one GPU or a CPU `BN`. `FrozenBN` holds no batch counters.

    Raises:
        UserError: for another kind or norm, or `C4` of a ResNet of basic blocks.
        CheckFailed: if a tensor is not in it, or the stride lies elsewhere.
    """
    for what, value, known in (("kind", kind, ("C4", "FPN")), ("norm", norm, NORMS)):
        if value not in known:
            raise UserError(expected=f"a {what} of {', '.join(known)}", found=repr(value), where="live_backbone")
    cfg = get_cfg()
    content = to_detectron2.settings(backbone.metadata, "", kind)["MODEL"]
    cfg.MODEL.RESNETS.update(content["RESNETS"])
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.BACKBONE.FREEZE_AT = content["BACKBONE"]["FREEZE_AT"]
    with quiet(), no_init.zeros_for_draws():
        live = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    fill(live, backbone, keymap.detectron2(backbone.arch), without=("res5",) if kind == "C4" else ())
    return live.train()
