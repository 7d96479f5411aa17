"""What an entry of the table of families says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converters.architectures import ARCHITECTURES
from converters.metadata import Preprocess

EncoderName = Literal["q", "k"]

Naming = Literal[
    "torchvision",
    "sequential",
    "detectron2",
    "detectron2 C4",
    "mmdet C4",
    "caffe2",
    "caffe2 statistics",
]
"""How the tensors behind an encoder's prefix are called; see `converters.families.naming`."""

Convention = Literal["torchvision", "caffe2"]
"""What a network expects of its input, and where a bottleneck has its stride; see `input_settings`."""


@dataclass(frozen=True)
class Drop:
    """A rule under which tensors are left out."""

    rule: str
    pattern: str
    """A regular expression for the whole name, behind the container and any wrapper."""


@dataclass(frozen=True)
class Layout:
    """One layout of checkpoints. A family may have several."""

    family: str
    source: str
    """Where the layout was looked up: `owner/repository@commit, file`."""
    containers: tuple[str, ...] = ("state_dict", "")
    """The keys, joined by dots, below which the tensors lie; empty for the file's own content. The first one found."""
    q: tuple[str, ...] = ()
    """What the trained encoder's names begin with, in the variants that exist; a file has one of them."""
    k: tuple[str, ...] = ()
    """The same of the averaged encoder; empty where the family has none."""
    k_containers: tuple[str, ...] = ()
    """Where the averaged encoder has a container of its own."""
    aliases: tuple[str, ...] = ()
    """Other names of the trained encoder's tensors: proved to be equal bit for bit, then dropped."""
    drops: tuple[Drop, ...] = ()
    head: str = ""
    """What the names of MoCo's projection head begin with, behind the encoder's prefix; empty where it has another."""
    beside: tuple[tuple[str, str], ...] = ()
    """Containers beside the weights, and the rules under which all their tensors are dropped."""
    default: EncoderName = "q"
    """The encoder that the family's own evaluation takes."""
    naming: Naming = "torchvision"
    convention: Convention = "torchvision"
    signature: tuple[str, ...] = ()
    """Regular expressions, each of which must find a name, for the layout to be in question at all."""
    methods: tuple[tuple[str, str], ...] = ()
    """Regular expressions for a name, and the training method that it tells; the first that finds one."""
    declared: bool = False
    """Whether it is in question only where its family is declared: others have the same names."""
    says: tuple[str, frozenset[str]] | None = None
    """A top-level key and its values that decide for this layout: what a file says of itself comes before guesses."""


MSRA = Preprocess(channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), value_range=(0.0, 255.0))
FAIR_RESNEXT = MSRA.model_copy(update={"std": (57.375, 57.12, 58.395)})


def input_settings(convention: Convention, arch: str) -> tuple[Preprocess, bool]:
    """How images must enter the network, and whether its strides sit in the first 1x1 convolutions.

    `caffe2`: the ResNets of MSRA expect BGR on the byte scale, their std is absorbed in the first convolution, and
    their stride is in the 1x1. The ResNeXts of FAIR, trained in Caffe2 too, have a std and their stride in the 3x3
    (facebookresearch/detectron2@02b5c4e, detectron2/config/defaults.py on PIXEL_STD and STRIDE_IN_1X1, and
    configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml). `torchvision`: RGB from 0 to 1, stride in the 3x3.
    """
    if convention == "torchvision":
        return Preprocess(), False
    architecture = ARCHITECTURES[arch]
    if architecture.groups > 1:
        return FAIR_RESNEXT, False
    return MSRA, architecture.bottleneck


def describe(convention: Convention) -> str:
    """What differs, for a list of candidates."""
    return {
        "torchvision": "RGB from 0 to 1, stride in the 3x3",
        "caffe2": "BGR from 0 to 255, ResNets with std 1 and the stride in the 1x1",
    }[convention]
