"""Write a backbone for torchvision: a flat `.pth` of weights, and a Python fragment that builds model and input."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import untrusted
from converters.architectures import ARCHITECTURES, Architecture
from converters.backbone import Backbone
from converters.errors import UserError
from converters.fragment import on_unit_scale
from converters.metadata import BackboneMetadata, parse_header

SUFFIX = ".pth"

_HEADER = "moco_transfer"
"""An attribute of the state dict, as torch's own `_metadata` is: no key of it, which `load_state_dict` would refuse."""

_BUILDERS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""The ResNets of `torchvision.models`."""

_TEXT = '''\
"""For torchvision: the model with its weights, and what an image must go through before it.

Training on several GPUs: torch.nn.SyncBatchNorm.convert_sync_batchnorm(model()); on one GPU or a CPU leave BN as it is.
"""

from pathlib import Path

import torch
from torchvision.models.resnet import {imports}
from torchvision.transforms import v2

WEIGHTS = Path(__file__).with_name({weights!r})


def model(weights=WEIGHTS, num_classes=1000):
    """The ResNet in which only the classifier `fc` is random."""
    resnet = {build}
    found = resnet.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    if found.unexpected_keys or set(found.missing_keys) != {{"fc.weight", "fc.bias"}}:
        raise RuntimeError(f"{{weights}} does not fit: {{found}}")
{strides}    return resnet
{channels}

# An 8-bit RGB image of PIL, resized and cropped before, becomes the model's input: 3xHxW.
transform = v2.Compose(
    [
        v2.PILToTensor(),
{swap}        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean={mean}, std={std}),
    ]
)
'''

_STRIDES = """\
    # These weights keep a bottleneck's stride in its first 1x1 convolution.
    for layer in (resnet.layer2, resnet.layer3, resnet.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
"""

_CHANNELS = '''\


def rgb_to_bgr(image):
    """These weights want BGR."""
    return image.flip(-3)
'''


def resnet(arch: Architecture) -> tuple[str, str]:
    """What to import from `torchvision.models.resnet`, and the expression that builds the ResNet.

    Raises:
        UserError: for a ResNet that torchvision's class cannot be.
    """
    if arch.widening != 1:
        raise UserError(
            expected="a backbone that torchvision can build",
            found=f"{arch.name}: its ResNet has no option for the width of all layers",
            where="--to torchvision",
            cure="use --to backbone, detectron2 or one of OpenMMLab's",
        )
    if arch.name in _BUILDERS:
        return arch.name, f"{arch.name}(num_classes=num_classes)"
    block = "Bottleneck" if arch.bottleneck else "BasicBlock"
    widths = f"groups={arch.groups}, width_per_group={arch.width_per_group}"
    return f"{block}, ResNet", f"ResNet({block}, {list(arch.blocks)}, num_classes, {widths})"


def fragment(metadata: BackboneMetadata, weights: str) -> str:
    """The text of the fragment beside the file called `weights`.

    Raises:
        UserError: see `resnet`.
    """
    imports, build = resnet(ARCHITECTURES[metadata.arch])
    mean, std = on_unit_scale(metadata.preprocess)
    bgr = metadata.preprocess.channel_order == "BGR"
    return _TEXT.format(
        weights=weights,
        imports=imports,
        build=build,
        strides=_STRIDES if metadata.stride_in_1x1 else "",
        channels=_CHANNELS if bgr else "",
        swap="        rgb_to_bgr,\n" if bgr else "",
        mean=mean,
        std=std,
    )


def write_fragment(metadata: BackboneMetadata, weights: str, path: Path) -> None:
    """The text as a file; errors as for `resnet`."""
    path.write_text(fragment(metadata, weights), encoding="utf-8")


def write_weights(backbone: Backbone, path: Path) -> None:
    """A state dict of all but `fc`."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in backbone.tensors.items():
        state[name] = value.detach().cpu().contiguous()
    vars(state)[_HEADER] = backbone.metadata.to_header()
    torch.save(state, path)


def header(content: object) -> dict[Any, Any] | None:
    """The backbone's header in the content of a file that `write_weights` made; None in any other."""
    found = vars(content).get(_HEADER) if isinstance(content, OrderedDict) else None
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
    if found is None:
        raise UserError(expected="a .pth written by moco-transfer", found="another checkpoint", where=path)
    return Backbone.of(parse_header(found, path), content, path)
