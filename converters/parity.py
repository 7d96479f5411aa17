"""Stage-wise forward parity: the same picture through torchvision and through a framework's own model and files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.keymap import STAGES, Stage
from converters.metadata import Preprocess
from converters.receipt import Receipt
from converters.settings import Settings

BOUND = 1e-5
"""The largest |Δ| (float32) that a stage may show, relative to the torchvision model's largest activation there."""

PICTURE_SIDE = 224
"""Pixels; a multiple of 32, so that no framework pads."""


class StageParity(Settings):
    """How near one stage's output comes to torchvision's."""

    stage: Stage
    max_abs_diff: float
    relative: float
    """`max_abs_diff` over the largest activation of the torchvision model in this stage."""
    cosine: float
    """Of the two outputs as flat vectors."""


@dataclass(frozen=True)
class LiveModel:
    """What a framework made of the written files."""

    stages: Mapping[Stage, Tensor]
    """Outputs (1×C×H×W) of the stem (with its pooling) and of res2 to res5 for the picture."""
    receipt: Receipt
    """Proof that the written weights and input settings are in it."""
    norm: str
    """The class of its norm layers."""
    loaded: frozenset[str]
    """torchvision's names of the tensors that are in it bit for bit, batch counters included."""


@cache
def picture() -> PIL.Image.Image:
    """A photograph (8-bit RGB, 224×224) from scikit-image's installed data: the same one each time."""
    from skimage import data

    photograph = np.asarray(data.astronaut())  # type: ignore[no-untyped-call]
    pixels = photograph[:PICTURE_SIDE, 112 : 112 + PICTURE_SIDE]
    return PIL.Image.fromarray(np.ascontiguousarray(pixels))


@cache
def picture_sha256() -> str:
    """sha256 (hex) of the picture's pixels in row order, RGB."""
    return hashlib.sha256(picture().tobytes()).hexdigest()


def torchvision_input(image: PIL.Image.Image, preprocess: Preprocess) -> Tensor:
    """1×3×H×W, as the backbone's own settings say."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32)
    if preprocess.channel_order == "BGR":
        pixels = pixels.flip(0)
    low, high = preprocess.value_range
    mean = torch.tensor(preprocess.mean).view(3, 1, 1)
    std = torch.tensor(preprocess.std).view(3, 1, 1)
    return ((pixels / 255 * (high - low) + low - mean) / std)[None]


@torch.no_grad()
def staged(model: nn.Module, x: Tensor, stem: Sequence[str], layers: Sequence[str]) -> dict[Stage, Tensor]:
    """Outputs of a ResNet's stem and of its stages, each from the one before.

    Args:
        model: the ResNet.
        x: N×3×H×W.
        stem: names of the modules of the stem, its pooling the last.
        layers: names of res2 to res5.
    """
    outputs: dict[Stage, Tensor] = {}
    for part in stem:
        x = getattr(model, part)(x)
    outputs["stem"] = x
    for stage, layer in zip(STAGES[1:], layers, strict=True):
        x = outputs[stage] = getattr(model, layer)(x)
    return outputs


LAYERS = ("layer1", "layer2", "layer3", "layer4")


def torchvision_stages(backbone: Backbone, image: PIL.Image.Image) -> dict[Stage, Tensor]:
    """The reference: outputs of the torchvision model."""
    x = torchvision_input(image, backbone.preprocess)
    return staged(backbone.module(copy=False), x, ("conv1", "bn1", "relu", "maxpool"), LAYERS)


_latest: list[tuple[weakref.ref[Backbone], dict[Stage, Tensor]]] = []


def reference(backbone: Backbone) -> Mapping[Stage, Tensor]:
    """`torchvision_stages` for the picture, computed once for a backbone that goes to several targets."""
    for known, stages in _latest:
        if known() is backbone:
            return stages
    _latest[:] = [(weakref.ref(backbone), torchvision_stages(backbone, picture()))]
    return _latest[0][1]


def compare(
    reference: Mapping[Stage, Tensor], live: Mapping[Stage, Tensor], framework: str, bound: float = BOUND
) -> tuple[StageParity, ...]:
    """The distance in every stage.

    Raises:
        CheckFailed: if a stage is absent, of another shape or further away than `bound`, or the reference is the same
            everywhere, so that any model would agree.
    """
    rows = []
    for stage in STAGES:
        expected, found = reference[stage].double(), live[stage].double()
        if expected.shape != found.shape:
            raise CheckFailed(
                f"parity: {stage} of the {framework} model has the shape {tuple(found.shape)}, "
                f"expected {tuple(expected.shape)}"
            )
        if expected.min() == expected.max():
            raise CheckFailed(
                f"parity: every activation of {stage} is {expected.max().item():g}: weights that compute nothing prove "
                "nothing"
            )
        diff = (expected - found).abs().max().item()
        relative = diff / max(expected.abs().max().item(), torch.finfo(torch.float32).tiny)
        # Written so that NaN fails too.
        if not relative <= bound:
            raise CheckFailed(
                f"parity: {stage} of the {framework} model differs from torchvision's by {relative:.2e} of the largest "
                f"activation, allowed are {bound:.0e}"
            )
        cosine = torch.nn.functional.cosine_similarity(expected.flatten(), found.flatten(), dim=0).item()
        rows.append(StageParity(stage=stage, max_abs_diff=diff, relative=relative, cosine=cosine))
    return tuple(rows)


def identical(backbone: Backbone, live: Mapping[str, Tensor]) -> frozenset[str]:
    """The names of the tensors that a live model holds bit for bit."""
    return frozenset(
        name
        for name, value in backbone.tensors.items()
        if name in live and torch.equal(live[name].detach().cpu(), value.cpu())
    )


def norm_of(model: nn.Module, first_norm: str) -> str:
    """The class name of a live model's norm layer at this path."""
    return type(model.get_submodule(first_norm)).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the frameworks' logs and warnings off the terminal; whether they loaded the weights is checked instead."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_picture(folder: Path) -> Path:
    """The picture as a lossless file for the frameworks' own readers."""
    path = folder / "picture.png"
    picture().save(path)
    return path
