"""Write a backbone for mmsegmentation: a `.pth` of weights and the Python fragment that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from converters import keymap, untrusted
from converters.architectures import ARCHITECTURES, Architecture
from converters.backbone import Backbone
from converters.errors import UserError
from converters.fragment import on_byte_scale
from converters.metadata import BackboneMetadata, parse_header

SUFFIX = ".pth"

_HEADER = "moco_transfer"

_LINES = """\
# {file} for mmsegmentation: the settings that the weights need. Put them below your configuration's `_base_` line.
# type='{type}': the stock models' ResNetV1c has a deep stem, into which these weights load nowhere, without an error.
# One GPU, or a CPU: put type='BN' for 'SyncBN'; with fewer than about 8 images a GPU its statistics are poor.
# The checkpoint's path is taken from the working directory: write the whole path where that is another folder.
"""


def resnet(arch: Architecture) -> dict[str, Any]:
    """The keys that tell mmsegmentation which backbone to build, its `type` first."""
    if arch.groups > 1:
        return {
            "type": "ResNeXt",
            "depth": arch.depth,
            "groups": arch.groups,
            "base_width": arch.width_per_group,
        }
    plain = {"type": "ResNet", "depth": arch.depth}
    if arch.widening == 1:
        return plain
    return {**plain, "stem_channels": arch.stem_width, "base_channels": arch.stem_width}


def settings(metadata: BackboneMetadata, weights: str) -> dict[str, Any]:
    """The settings as the top-level names of an mmengine configuration.

    Args:
        metadata: the backbone's header.
        weights: what `init_cfg`'s checkpoint becomes.
    """
    mean, std = on_byte_scale(metadata.preprocess)
    norm = {"type": "SyncBN", "requires_grad": True}
    preprocessor = {
        "type": "SegDataPreProcessor",
        "mean": mean,
        "std": std,
        # Images are loaded as BGR.
        "bgr_to_rgb": metadata.preprocess.channel_order == "RGB",
        "pad_val": 0,
        "seg_pad_val": 255,
    }
    backbone = {
        **resnet(ARCHITECTURES[metadata.arch]),
        "norm_cfg": norm,
        "norm_eval": False,
        "frozen_stages": -1,
        "style": "caffe" if metadata.stride_in_1x1 else "pytorch",
        "init_cfg": {"type": "Pretrained", "checkpoint": weights},
    }
    # The stock models' `pretrained` would win over init_cfg's weights, hence None.
    model = {"data_preprocessor": preprocessor, "pretrained": None, "backbone": backbone}
    return {"norm_cfg": norm, "data_preprocessor": preprocessor, "model": model}


def write_fragment(metadata: BackboneMetadata, weights: str, path: Path) -> None:
    """The settings as a Python configuration, with the traps as comments."""
    content = settings(metadata, weights)
    text = _LINES.format(file=path.name, type=content["model"]["backbone"]["type"])
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
    """The weights under mmsegmentation's names, for `init_cfg=dict(type='Pretrained', ...)`."""
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
