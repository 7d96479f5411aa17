"""The fragments make each framework build the layers of torchvision, for every architecture that is let through."""

from __future__ import annotations

import contextlib
import json
import runpy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from converters import architectures, keymap, parity, to_detectron2, to_openmmlab, to_timm, to_torchvision
from converters.architectures import ARCHITECTURES, Architecture
from converters.errors import UserError
from converters.keymap import KeyMap
from converters.metadata import BackboneMetadata, Origin

WIDE = {"wide_resnet50_2", "wide_resnet101_2"}
CANNOT = {
    "torchvision": {"resnet50w2x", "resnet50w4x"},
    "timm": {"resnet50w2x", "resnet50w4x"},
    "detectron2 C4": {"resnet18", "resnet34"},
    "detectron2 FPN": set[str](),
    "mmseg": WIDE,
    "mmdet": WIDE,
    "mmpretrain": WIDE,
}
"""Which architectures a framework cannot build: the others must be the same, layer by layer."""


def openmmlab(framework: to_openmmlab.Framework, metadata: BackboneMetadata, path: Path) -> nn.Module:
    from mmengine.config import Config

    from converters import mmdet_model, mmpretrain_model, mmseg_model, openmmlab_model

    to_openmmlab.write_fragment(metadata, "x.pth", path, framework)
    registry = {"mmseg": mmseg_model, "mmdet": mmdet_model, "mmpretrain": mmpretrain_model}[framework].MODELS
    with (
        parity.quiet(),
        openmmlab_model.DefaultScope.overwrite_default_scope(framework),
        pytest.MonkeyPatch.context() as patch,
    ):
        # From it mmpretrain reads numbers, which a tensor on the meta device has not.
        patch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
        live: nn.Module = registry.build(Config.fromfile(str(path)).model.backbone)
    return live


def detectron2(head: to_detectron2.Head, metadata: BackboneMetadata, path: Path) -> nn.Module:
    from converters import detectron2_model

    to_detectron2.write_fragment(metadata, "x.pkl", path, head)
    cfg = detectron2_model.get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "meta"
    return detectron2_model.build_model(cfg)  # type: ignore[no-any-return]


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """What a fragment for torchvision loads stays away; all but `fc` is said to be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        found = nn.modules.module._IncompatibleKeys(["fc.weight", "fc.bias"], [])
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: found)
        yield


def built(framework: str, metadata: BackboneMetadata, folder: Path) -> tuple[nn.Module, KeyMap]:
    """The framework's own model, without values, and the table to its names."""
    arch = metadata.arch
    if framework == "torchvision":
        to_torchvision.write_fragment(metadata, "x.pth", folder / "x.py")
        with without_weights():
            return runpy.run_path(str(folder / "x.py"))["model"](), keymap.torchvision(arch)
    if framework == "timm":
        import timm

        to_timm.write_fragment(metadata, "x.safetensors", folder / "x.json")
        content = json.loads((folder / "x.json").read_text())
        model = timm.create_model(content["architecture"], num_classes=0, **content.get("model_args", {}))
        return model, keymap.torchvision(arch)
    if framework.startswith("detectron2"):
        head: Any = framework.split()[1]
        return detectron2(head, metadata, folder / "x.yaml"), keymap.detectron2(arch, head)
    return openmmlab(framework, metadata, folder / "x.py"), keymap.mmseg(arch)  # type: ignore[arg-type]


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
@pytest.mark.parametrize("framework", sorted(CANNOT))
def test_the_framework_builds_the_same_layers_or_the_architecture_is_refused(
    framework: str, arch: str, tmp_path: Path
) -> None:
    """Without values: the widest has 1.5 GB of them. Parity of values is proved whenever one is converted."""
    stride_in_1x1 = ARCHITECTURES[arch].bottleneck and framework != "timm"
    origin = Origin(file="", sha256="", family="")
    metadata = BackboneMetadata(arch=arch, fingerprint="0" * 64, origin=origin, stride_in_1x1=stride_in_1x1)
    with torch.device("meta"):
        if arch in CANNOT[framework]:
            with pytest.raises(UserError, match=arch):
                built(framework, metadata, tmp_path)
            return
        live, table = built(framework, metadata, tmp_path)
        reference: Any = architectures.build(arch)
    state = live.state_dict()
    shapes = {ours: tuple(state[theirs].shape) for ours, theirs in table.names.items()}
    assert shapes == architectures.expected_shapes(arch)
    if stride_in_1x1:
        for layer in (reference.layer2, reference.layer3, reference.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    for name, module in reference.named_modules():
        if isinstance(module, nn.Conv2d):
            theirs: Any = live.get_submodule(table.names[f"{name}.weight"].removesuffix(".weight"))
            found = (theirs.stride, theirs.padding, theirs.dilation, theirs.groups)
            assert found == (module.stride, module.padding, module.dilation, module.groups), name


def test_a_wide_resnet_is_refused_where_only_resnexts_have_a_width() -> None:
    wide = Architecture("wide_resnet50_2", (3, 4, 6, 3), bottleneck=True, width_per_group=128)
    for framework in ("mmseg", "mmdet", "mmpretrain"):
        with pytest.raises(
            UserError, match=rf"--to {framework}: .* found wide_resnet50_2: its ResNet has no option that widens"
        ):
            to_openmmlab.resnet(wide, framework)  # type: ignore[arg-type]
