"""What a file says of its input settings, which comes before guesses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from converters.census.limits import clip
from converters.errors import UserError
from converters.families.configuration import Triple
from converters.families.content import Content
from converters.families.layout import Convention, input_settings
from converters.families.matching import Candidate
from converters.families.reading import Reading
from converters.metadata import Preprocess

Order = Literal["RGB", "BGR"]

_RGB_MEAN = (123.675, 116.28, 103.53)
_DECLARING = ("-rgb", "-bgr")
"""What a family's name ends with where it declares the input too, as `torchvision` and `caffe2` do."""
_BUFFERS = (("pixel_mean", "pixel_std"), ("data_preprocessor.mean", "data_preprocessor.std"))
"""detectron2 saved its own until 3c0509e6 (2021-02, before 0.4), detectron2/modeling/meta_arch/rcnn.py."""


@dataclass(frozen=True)
class _Stated:
    """A field is None where the file does not say it."""

    order: Order | None = None
    """In words; see `_order_of` for what a known mean tells."""
    mean: Triple | None = None
    """On the byte scale, as `std`."""
    std: Triple | None = None
    unit: bool = False
    """Whether images are scaled to values from 0 to 1 before mean and std, as the file writes them."""
    styles: frozenset[str] = frozenset()


def agreeing(candidates: Iterable[Candidate], content: Content) -> list[Candidate]:
    """The candidates that do not contradict the file; where it contradicts each, all of them with what it says."""
    every = list(candidates)
    kept = [c for c in every if (told := convention(c, content)) is None or told == c.layout.convention]
    return kept or [told_by(candidate, content) for candidate in every]


def told_by(candidate: Candidate, content: Content) -> Candidate:
    """The candidate with the input that the file says, where it says one."""
    told = convention(candidate, content)
    if told is None:
        return candidate
    return dataclasses.replace(candidate, layout=dataclasses.replace(candidate.layout, convention=told))


def convention(candidate: Candidate, content: Content) -> Convention | None:
    """The input that the file says its network expects; None where it says nothing, or something in between."""
    order = _order_of(_buffers(candidate)[0])
    if order is not None:
        # OpenMMLab's and detectron2's BGR networks are Caffe's, whose std is 1; `settings` holds the std against it.
        return "torchvision" if order == "RGB" else "caffe2"
    said = content.configuration
    if said.orders == {True} and said.styles <= {"pytorch"}:
        return "torchvision"
    if said.orders == {False} and said.styles == {"caffe"}:
        return "caffe2"
    return None


def settings(candidate: Candidate, content: Content, arch: str, how: Reading) -> tuple[Preprocess, bool]:
    """How images must enter the network and whether its strides are in the 1x1: the convention's, as the file has it.

    A mean and a std that the file states come before those of the convention, where the order is stated as well, or
    declared.

    Raises:
        UserError: if the file states others and leaves open what they mean.
    """
    usual, stride = input_settings(candidate.layout.convention, arch)
    declared = how.family is not None and (how.family.endswith(_DECLARING) or how.family in ("torchvision", "caffe2"))
    stated = _stated(candidate, content, declared=declared)
    order = stated.order or _order_of(stated.mean)
    if order not in (None, usual.channel_order):
        if declared:
            return usual, stride
        raise _contradiction(content, stated, usual)
    caffe = candidate.layout.convention == "caffe2"
    if not declared and (("caffe" in stated.styles and not caffe) or ("pytorch" in stated.styles and stride)):
        raise _contradiction(content, stated, usual)
    if (stated.mean is None and stated.std is None) or _same(stated, usual):
        return usual, stride
    if stated.mean is None or stated.std is None or not (declared or stated.order is not None):
        raise _contradiction(content, stated, usual)
    factor = 255 if stated.unit else 1
    (m0, m1, m2), (s0, s1, s2) = stated.mean, stated.std
    carried = Preprocess(
        channel_order=usual.channel_order,
        mean=(m0 / factor, m1 / factor, m2 / factor),
        std=(s0 / factor, s1 / factor, s2 / factor),
        value_range=(0.0, 1.0) if stated.unit else (0.0, 255.0),
    )
    return carried, stride


def _stated(candidate: Candidate, content: Content, *, declared: bool) -> _Stated:
    said = content.configuration
    mean, std = _buffers(candidate)
    found = {*said.normalisations, *([(mean, std)] if mean is not None and std is not None else [])}
    scaled = {(_bytes(one, other), _bytes(other, other)) for one, other in found}
    if len(scaled) > 1 and not declared:
        raise UserError(
            expected="one input normalisation",
            found="several: " + ", ".join(f"mean {clip(one)} std {clip(other)}" for one, other in sorted(scaled)),
            where=content.path,
            cure="save the weights alone, and choose with --family",
        )
    order: Order | None = None
    if len(said.orders) == 1:
        order = "RGB" if True in said.orders else "BGR"
    if len(scaled) > 1:  # the declaration stands alone
        mean, std, unit = None, None, False
    else:
        unit = any(_unit(other) for _, other in found)
    if len(scaled) == 1:
        ((mean, std),) = scaled
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UserError(
                expected="a finite mean and a std above 0",
                found=f"mean {clip(mean)} std {clip(std)}",
                where=content.path,
                cure="save the weights alone, and choose with --family",
            )
    return _Stated(order, mean, std, unit, said.styles)


def _buffers(candidate: Candidate) -> tuple[Triple | None, Triple | None]:
    """Mean and std among the tensors beside the encoder, as they are written."""
    names = candidate.found.group.names
    for mean, std in _BUFFERS:
        if mean in names or std in names:
            return _values(names.get(mean)), _values(names.get(std))
    return None, None


def _values(tensor: Tensor | None) -> Triple | None:
    if tensor is None or tensor.numel() != 3:
        return None
    one, two, three = tensor.detach().double().flatten().tolist()
    return one, two, three


def _unit(std: Triple) -> bool:
    """Whether mean and std are of values from 0 to 1: of bytes, no std is below 1."""
    return 0 < max(std) < 1


def _bytes(values: Triple, std: Triple) -> Triple:
    factor = 255 if _unit(std) else 1
    return (values[0] * factor, values[1] * factor, values[2] * factor)


def _near(one: Triple, other: Triple) -> bool:
    return all(abs(a - b) < 0.01 for a, b in zip(one, other, strict=True))


def _order_of(mean: Triple | None) -> Order | None:
    """The channel order in which a mean is ImageNet's."""
    if mean is None:
        return None
    if _near(mean, _RGB_MEAN):
        return "RGB"
    return "BGR" if _near(mean, _RGB_MEAN[::-1]) else None


def _same(stated: _Stated, usual: Preprocess) -> bool:
    factor = 255 / usual.value_range[1]
    for said, ours in ((stated.mean, usual.mean), (stated.std, usual.std)):
        if said is not None and not _near(said, (ours[0] * factor, ours[1] * factor, ours[2] * factor)):
            return False
    return True


def _contradiction(content: Content, stated: _Stated, usual: Preprocess) -> UserError:
    words = [
        *([stated.order] if stated.order else []),
        *([f"style {', '.join(sorted(map(clip, stated.styles)))}"] if stated.styles else []),
        *([f"mean {_shown(stated.mean)}"] if stated.mean else []),
        *([f"std {_shown(stated.std)}"] if stated.std else []),
    ]
    return UserError(
        expected=f"the input {usual.channel_order}, mean {_shown(usual.mean)}, std {_shown(usual.std)} "
        f"on values from 0 to {usual.value_range[1]:g}",
        found=f"another in the file's own words: {', '.join(words)}",
        where=content.path,
        cure="choose with --family, as openmmlab-rgb, openmmlab-bgr, detectron2-rgb or detectron2-bgr",
    )


def _shown(values: Triple) -> str:
    return " ".join(f"{value:g}" for value in values)
