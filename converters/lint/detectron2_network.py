"""The rules for the network of a detectron2 configuration: the ResNet, its norms, and the head's."""

from __future__ import annotations

from typing import Any

from converters import to_detectron2
from converters.architectures import ARCHITECTURES
from converters.lint import published
from converters.lint.detectron2_view import Detectron2Config, key_path
from converters.lint.finding import Findings, Text
from converters.lint.values import count, sequence
from converters.metadata import BackboneMetadata

_SYNCHRONISED = ("SyncBN", "naiveSyncBN", "naiveSyncBN_N")
_EXTRA_NORM = "Res5ROIHeadsExtraNorm"
_DEFORMED = "DEFORM_ON_PER_STAGE"
_PLAIN: dict[str, Any] = {
    _DEFORMED: [False, False, False, False],
    "RES4_DILATION": 1,
    "RES5_DILATION": 1,
}
"""Of `MODEL.RESNETS`: what a plain ResNet has. RES4_DILATION is DeepLab's."""
_SEEN_ELSEWHERE = (
    # By rules of their own.
    *("DEPTH", "NUM_GROUPS", "WIDTH_PER_GROUP", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS"),
    *("NORM", "STRIDE_IN_1X1", "STEM_TYPE"),
    # Of no effect on a plain ResNet.
    *("OUT_FEATURES", "DEFORM_MODULATED", "DEFORM_NUM_GROUPS"),
)


def check(findings: Findings, cfg: Detectron2Config, metadata: BackboneMetadata) -> None:
    """Whether the ResNet is the backbone's, plain, trained, and with what a head on it needs."""
    arch = ARCHITECTURES[metadata.arch]
    for name, expected in to_detectron2.resnet(arch).items():
        key = f"MODEL.RESNETS.{name}"
        if cfg.get(key) != expected:
            findings.add("arch", key_path(key), cfg.found(key), expected, changes={key_path(key): expected})
    key = "MODEL.RESNETS.STRIDE_IN_1X1"
    if arch.bottleneck and cfg.get(key) is not metadata.stride_in_1x1:
        right = metadata.stride_in_1x1
        findings.add("stride-position", key_path(key), cfg.found(key), right, changes={key_path(key): right})
    key = "MODEL.RESNETS.STEM_TYPE"
    if cfg.get(key) not in (None, "basic"):
        findings.add("deep-stem", key_path(key), cfg.get(key), "basic", changes={key_path(key): "basic"})
    key = "MODEL.BACKBONE.NAME"
    if "resnet" not in cfg.text(key) or "deeplab" in cfg.text(key):
        rule = "deep-stem" if "deeplab" in cfg.text(key) else "arch"
        fix = "use build_resnet_backbone, or build_resnet_fpn_backbone"
        findings.add(rule, key_path(key), cfg.get(key), Text("a builder of the plain ResNet"), fix=fix)
    _check_plain(findings, cfg)
    key = "MODEL.BACKBONE.FREEZE_AT"
    if cfg.get(key) != 0:
        findings.add("frozen-stages", key_path(key), cfg.found(key), 0, changes={key_path(key): 0})
    key = "MODEL.ROI_HEADS.NAME"
    if cfg.head == "C4":
        if not arch.bottleneck:
            findings.add(
                "arch",
                key_path("MODEL.BACKBONE.NAME"),
                cfg.found("MODEL.BACKBONE.NAME"),
                Text("an FPN: detectron2 builds res5 of a C4 head from bottlenecks alone"),
                fix="begin from Base-RCNN-FPN.yaml",
            )
        elif cfg.get(key) == "Res5ROIHeads":
            findings.add("extra-norm", key_path(key), cfg.found(key), _EXTRA_NORM, changes={key_path(key): _EXTRA_NORM})
        if cfg.get(key) == _EXTRA_NORM or arch.bottleneck:
            findings.note(f"{_EXTRA_NORM} is known to detectron2 after `import evaluators.detection.heads`")


def _check_plain(findings: Findings, cfg: Detectron2Config) -> None:
    """The keys below MODEL.RESNETS that change what a plain ResNet computes, and those that nobody knows."""
    resnets = cfg.get("MODEL.RESNETS")
    for name in resnets if isinstance(resnets, dict) else ():
        key = f"MODEL.RESNETS.{name}"
        value = cfg.get(key)
        if name in _SEEN_ELSEWHERE:
            continue
        if name not in _PLAIN:
            fix = "remove it"
            findings.add("network", key_path(key), value, Text("a key of the plain ResNet of detectron2 0.6"), fix=fix)
        elif (any(sequence(value)) or not sequence(value)) if name == _DEFORMED else value != _PLAIN[name]:
            findings.add("network", key_path(key), value, _PLAIN[name], changes={key_path(key): _PLAIN[name]})


def check_norm(findings: Findings, cfg: Detectron2Config, gpus: int | None) -> None:
    """Kind of norm, whether it trains, and on what statistics the test runs."""
    one_device = gpus is not None and gpus <= 1
    right = "BN" if one_device else "SyncBN"
    places = ["MODEL.RESNETS.NORM"]
    if cfg.head in ("FPN", "RetinaNet"):
        places.append("MODEL.FPN.NORM")
    places += [
        key
        for key in ("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM", "MODEL.RETINANET.NORM")
        if cfg.get(key) in ("BN", *_SYNCHRONISED)
    ]
    for key in places:
        norm = cfg.get(key)
        changes = {key_path(key): right}
        if norm == "FrozenBN":
            findings.add("frozen-bn", key_path(key), cfg.found(key), right, changes=changes)
        elif norm in _SYNCHRONISED:
            if one_device:
                device = "a CPU" if gpus == 0 else "one GPU"
                findings.add("sync-bn-one-device", key_path(key), norm, Text(f"'BN' on {device}"), changes=changes)
        elif norm == "BN":
            _check_batch_norm(findings, cfg, key, gpus)
        elif key == "MODEL.FPN.NORM":
            findings.add("fpn-norm", key_path(key), cfg.found(key), right, changes=changes)
        else:
            findings.add("norm-kind", key_path(key), cfg.found(key), right, changes=changes)
    key = "TEST.PRECISE_BN.ENABLED"
    if cfg.get(key) is not True:
        findings.add("precise-bn", key_path(key), cfg.found(key), True, changes={key_path(key): True})


def _check_batch_norm(findings: Findings, cfg: Detectron2Config, key: str, gpus: int | None) -> None:
    """Plain BN: over all images on one device, over a part of them on each of several."""
    images = count(cfg.get("SOLVER.IMS_PER_BATCH")) or 0
    if gpus is None or gpus > 1:
        share = "of one GPU" if gpus is None else f"over {images / gpus:g} images a GPU"
        fix = f"set {key} to 'SyncBN'" + (", or say --gpus 1 where one GPU trains" if gpus is None else "")
        changes = {key_path(key): "SyncBN"}
        findings.add("norm-kind", key_path(key), Text(f"'BN' {share}"), "SyncBN", fix=fix, changes=changes)
    elif images < published.FEW_IMAGES and key == "MODEL.RESNETS.NORM":
        findings.add(
            "norm-kind",
            key_path(key),
            Text(f"'BN' over {images:g} images"),
            Text(f"at least {published.FEW_IMAGES} images"),
            fix="raise SOLVER.IMS_PER_BATCH, or train on several GPUs with SyncBN",
            severity="warning",
        )
