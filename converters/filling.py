"""Put a backbone into a live ResNet of a framework, and prove that it is in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from converters.architectures import ARCHITECTURES
from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.fingerprint import BATCH_COUNTER
from converters.keymap import KeyMap, Stage, stage_of
from converters.layers import check_layers


def fill(live: nn.Module, backbone: Backbone, names: KeyMap, *, without: tuple[Stage, ...] = ()) -> None:
    """Load the tensors by name, then compare them, bit for bit, and where the strides lie.

    Args:
        live: a ResNet of a framework.
        backbone: what it gets.
        names: the table to its names.
        without: stages that it does not have, as `res5`.

    Raises:
        CheckFailed: if a tensor has no place in it (but for batch counters, which a frozen norm has not), one of its
            own is none of the backbone's, a stride lies elsewhere, or other layers compute something else.
    """
    wanted = {names.names[name]: value for name, value in backbone.tensors.items() if stage_of(name) not in without}
    state = live.state_dict()
    expected = f"coverage: expected {len(wanted)} tensors of {backbone.arch} in the live {names.target} backbone"
    lacking = [
        name
        for name, value in wanted.items()
        if (name not in state and not name.endswith(BATCH_COUNTER))
        or (name in state and state[name].shape != value.shape)
    ]
    if lacking:
        raise CheckFailed(f"{expected}, found no such place for {len(lacking)}, as {lacking[0]}")
    strange = sorted(state.keys() - wanted.keys())
    if strange:
        raise CheckFailed(f"{expected}, found {len(strange)} others, as {strange[0]}")
    live.load_state_dict(wanted, strict=False)
    differing = [name for name, value in live.state_dict().items() if not torch.equal(value.cpu(), wanted[name].cpu())]
    if differing:
        raise CheckFailed(f"{expected}, found {len(differing)} with other values, as {differing[0]}")
    check_layers(live, names, backbone.arch, without=without)
    if ARCHITECTURES[backbone.arch].bottleneck:
        _check_strides(live, backbone, names, without)


def _check_strides(live: nn.Module, backbone: Backbone, names: KeyMap, without: tuple[Stage, ...]) -> None:
    strided, plain = ("conv1", "conv2") if backbone.stride_in_1x1 else ("conv2", "conv1")
    for layer in (2, 3, 4):
        path = f"layer{layer}.0.{{}}.weight"
        if stage_of(path) in without:
            continue
        strides = {}
        for convolution in (strided, plain):
            module: Any = live.get_submodule(names.names[path.format(convolution)].removesuffix(".weight"))
            strides[convolution] = tuple(module.stride)
        # The stride itself may be 1, as where the resolution is kept by dilation.
        if strides[plain] != (1, 1):
            raise CheckFailed(
                f"coverage: expected stride_in_1x1 {backbone.stride_in_1x1} in the live {names.target} backbone, "
                f"found the strides {strides} in layer{layer}"
            )
