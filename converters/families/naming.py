"""Total, injective, invertible tables between torchvision's names and those behind an encoder's prefix."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from converters import architectures, keymap
from converters.families.layout import Naming
from converters.keymap import KeyMap

FIRST = "conv1.weight"
"""Torchvision's name of the tensor that every ResNet has."""


def table(naming: Naming, arch: str) -> KeyMap:
    """Torchvision's name of each tensor -> the name behind the prefix, for one architecture."""
    rule = _RULES[naming]
    return KeyMap(naming, {name: rule(name) for name in architectures.expected_shapes(arch)}, region="")


@cache
def first(naming: Naming) -> str:
    """What the naming calls the first convolution's weights."""
    return _RULES[naming](FIRST)


@cache
def inverse(naming: Naming) -> dict[str, str]:
    """The name behind the prefix -> torchvision's, for the tensors of all architectures: which one is not known yet."""
    found: dict[str, str] = {}
    for arch in architectures.ARCHITECTURES:
        found |= table(naming, arch).inverse
    return found


# children() of torchvision's ResNet: conv1, bn1, relu, maxpool, layer1 to layer4, avgpool (pytorch/vision@main,
# torchvision/models/resnet.py); `Sequential(*list(resnet.children())[:-1])` numbers them.
_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def _sequential(name: str) -> str:
    module, rest = name.split(".", 1)
    return f"{_CHILDREN[module]}.{rest}"


def _detectron2_c4(name: str) -> str:
    place = "roi_heads." if keymap.stage_of(name) == "res5" else "backbone."
    return place + keymap.detectron2_name(name)


def _mmdet_c4(name: str) -> str:
    """open-mmlab/mmdetection@cfd5d3a, mmdet/models/roi_heads/shared_heads/res_layer.py: res5 is the head's `layer4`."""
    return ("roi_head.shared_head." if name.startswith("layer4.") else "backbone.") + name


# facebookresearch/detectron2@02b5c4e, detectron2/checkpoint/c2_model_loading.py, convert_basic_c2_names. Files hold a
# norm either as scale and shift alone, or with its statistics, in two spellings.
_NORMS = {
    "caffe2": {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"},
    "caffe2 statistics": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "running_mean",
        "running_var": "running_var",
    },
}
_BRANCHES = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}


def _caffe2(norms: dict[str, str], name: str) -> str:
    """`layer1.0.bn3.weight` -> `res2_0_branch2c_bn_s`; of the stem: `conv1_w`, `res_conv1_bn_s`."""
    module, tensor = name.rsplit(".", 1)
    stage = keymap.stage_of(name)
    norm = re.search(r"(bn\d|downsample\.1)$", module)
    if stage == "stem":
        path = "res_conv1" if norm else "conv1"
    else:
        _, block, inner = module.split(".", 2)
        path = f"{stage}_{block}_" + ("branch1" if inner.startswith("downsample.") else _BRANCHES[inner[-1]])
    if norm is None:
        return f"{path}_w"
    # Caffe2 counts no batches: this name occurs in no file.
    return f"{path}_bn_{norms.get(tensor, tensor)}"


_RULES: dict[Naming, Callable[[str], str]] = {
    "torchvision": lambda name: name,
    "sequential": _sequential,
    "detectron2": keymap.detectron2_name,
    "detectron2 C4": _detectron2_c4,
    "mmdet C4": _mmdet_c4,
    "caffe2": lambda name: _caffe2(_NORMS["caffe2"], name),
    "caffe2 statistics": lambda name: _caffe2(_NORMS["caffe2 statistics"], name),
}
NAMINGS: tuple[Naming, ...] = tuple(_RULES)
