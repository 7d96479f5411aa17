"""Write a backbone for OpenMMLab's frameworks: one `.pth` of weights for all, and each one's Python fragment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from converters import keymap, untrusted
from converters.architectures import ARCHITECTURES, Architecture
from converters.backbone import Backbone
from converters.errors import UserError
from converters.fragment import on_byte_scale
from converters.metadata import BackboneMetadata, parse_header

SUFFIX = ".pth"

Framework = Literal["mmseg", "mmdet", "mmpretrain"]

_HEADER = "moco_transfer"


@dataclass(frozen=True)
class _Wants:
    """What one framework's configuration asks for."""

    title: str
    preprocessor: str
    swap: str
    """The preprocessor's key for: images are loaded as BGR, and the model wants RGB."""
    padding: dict[str, Any]
    group_width: str
    """ResNeXt's key for the channels of a group."""
    has_pretrained: bool
    """Whether its models take `pretrained`, which would win over the backbone's `init_cfg`."""
    advice: str


_WANTS: dict[Framework, _Wants] = {
    "mmseg": _Wants(
        title="mmsegmentation",
        preprocessor="SegDataPreProcessor",
        swap="bgr_to_rgb",
        padding={"pad_val": 0, "seg_pad_val": 255},
        group_width="base_width",
        has_pretrained=True,
        advice="# type='{type}': the stock models' ResNetV1c has a deep stem, into which these weights load nowhere, "
        "without an error.\n",
    ),
    "mmdet": _Wants(
        title="mmdetection",
        preprocessor="DetDataPreprocessor",
        swap="bgr_to_rgb",
        padding={"pad_mask": True, "pad_size_divisor": 32},
        group_width="base_width",
        has_pretrained=False,
        advice="# frozen_stages=-1, norm_eval=False: the stock models freeze stem, res2 and all statistics of norms.\n"
        "# A C4 detector keeps res5 in roi_head.shared_head, which loads nothing here: give it the same init_cfg.\n",
    ),
    "mmpretrain": _Wants(
        title="mmpretrain",
        preprocessor="ClsDataPreprocessor",
        swap="to_rgb",
        padding={},
        group_width="width_per_group",
        has_pretrained=False,
        advice="# For a linear probe set frozen_stages=4 and norm_eval=True: here everything is trained.\n",
    ),
}

_LINES = """\
# {file} for {title}: the settings that the weights need. Put them below your configuration's `_base_` line.
{advice}# One GPU, or a CPU: put type='BN' for 'SyncBN'; with fewer than about 8 images a GPU its statistics are poor.
# The checkpoint's path is taken from the working directory: write the whole path where that is another folder.
"""


def resnet(arch: Architecture, framework: Framework = "mmseg") -> dict[str, Any]:
    """The keys that tell a framework which backbone to build, its `type` first.

    Raises:
        UserError: for a ResNet that none of the framework's classes can be.
    """
    if arch.groups > 1:
        return {
            "type": "ResNeXt",
            "depth": arch.depth,
            "groups": arch.groups,
            _WANTS[framework].group_width: arch.width_per_group,
        }
    if arch.width_per_group != 64:
        raise UserError(
            expected=f"a backbone that {_WANTS[framework].title} can build",
            found=f"{arch.name}: its ResNet has no option that widens the 3x3 convolutions alone, and its ResNeXt "
            "takes one only with several groups",
            where=f"--to {framework}",
            cure="use --to detectron2, torchvision or timm",
        )
    plain = {"type": "ResNet", "depth": arch.depth}
    if arch.widening == 1:
        return plain
    return {**plain, "stem_channels": arch.stem_width, "base_channels": arch.stem_width}


def backbone_settings(
    metadata: BackboneMetadata, framework: Framework = "mmseg", norm: str = "SyncBN"
) -> dict[str, Any]:
    """The `backbone` of a model, without its weights: everything trainable; errors as for `resnet`."""
    return {
        **resnet(ARCHITECTURES[metadata.arch], framework),
        "norm_cfg": {"type": norm, "requires_grad": True},
        "norm_eval": False,
        "frozen_stages": -1,
        "style": "caffe" if metadata.stride_in_1x1 else "pytorch",
    }


def settings(metadata: BackboneMetadata, weights: str, framework: Framework = "mmseg") -> dict[str, Any]:
    """The settings as the top-level names of an mmengine configuration.

    Args:
        metadata: the backbone's header.
        weights: what `init_cfg`'s checkpoint becomes.
        framework: for whom.

    Raises:
        UserError: see `resnet`.
    """
    wants = _WANTS[framework]
    mean, std = on_byte_scale(metadata.preprocess)
    preprocessor = {
        "type": wants.preprocessor,
        "mean": mean,
        "std": std,
        # Images are loaded as BGR.
        wants.swap: metadata.preprocess.channel_order == "RGB",
        **wants.padding,
    }
    backbone = backbone_settings(metadata, framework)
    backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": weights}
    model: dict[str, Any] = {"data_preprocessor": preprocessor, "backbone": backbone}
    if wants.has_pretrained:
        model["pretrained"] = None
    return {"norm_cfg": backbone["norm_cfg"], "data_preprocessor": preprocessor, "model": model}


def write_fragment(metadata: BackboneMetadata, weights: str, path: Path, framework: Framework = "mmseg") -> None:
    """The settings as a Python configuration, with the traps as comments; errors as for `resnet`."""
    content = settings(metadata, weights, framework)
    wants = _WANTS[framework]
    advice = wants.advice.format(type=content["model"]["backbone"]["type"])
    text = _LINES.format(file=path.name, title=wants.title, advice=advice)
    known: dict[int, str] = {}
    for name, value in content.items():
        text += f"{name} = {_python(value, known)}\n"
        known[id(value)] = name
    path.write_text(text, encoding="utf-8")


def _python(value: object, known: dict[int, str], indent: int = 0) -> str:
    """A dict as `dict(...)`, one key a line, or as the name that it has already; anything else as its literal."""
    if id(value) in known:
        return known[id(value)]
    if not isinstance(value, dict):
        return repr(value)
    inner = "    " * (indent + 1)
    lines = [f"{inner}{key}={_python(item, known, indent + 1)},\n" for key, item in value.items()]
    return f"dict(\n{''.join(lines)}{'    ' * indent})"


def write_weights(backbone: Backbone, path: Path) -> None:
    """The weights under OpenMMLab's names, for `init_cfg=dict(type='Pretrained', ...)`."""
    state = keymap.mmseg(backbone.arch).rename(backbone.tensors)
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    torch.save({"state_dict": state, "meta": {_HEADER: backbone.metadata.to_header()}}, path)


def header(content: object) -> dict[Any, Any] | None:
    """The backbone's header in the content of a file that `write_weights` made; None in any other."""
    meta = content.get("meta") if isinstance(content, dict) else None
    found = meta.get(_HEADER) if isinstance(meta, dict) else None
    return found if isinstance(found, dict) else None


def read_weights(path: Path) -> Backbone:
    """The backbone back from a file that `write_weights` made.

    Raises:
        UserError: if it is no such file, or its tensors are not those that its header names.
    """
    return of_content(untrusted.load(path).content, path)


def of_content(content: object, path: Path) -> Backbone:
    """The same from the loaded content of the file at `path`; errors as for `read_weights`."""
    found = header(content)
    if found is None or not isinstance(content, dict):
        raise UserError(expected="a .pth written by moco-transfer", found="another checkpoint", where=path)
    metadata = parse_header(found, path)
    return Backbone.of(metadata, content.get("state_dict"), path, keymap.mmseg(metadata.arch).inverse)
