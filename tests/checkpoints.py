"""Checkpoint files in the layouts that people have, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import architectures


def encoder(arch: str = "resnet18", seed: int = 0, num_classes: int = 128) -> dict[str, Tensor]:
    """A torchvision ResNet's state dict; running statistics, scales and shifts differ from their initial values."""
    torch.manual_seed(seed)
    state = architectures.build(arch, num_classes).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("num_batches_tracked"):
            value.fill_(7)
        elif "bn" in name or "downsample.1" in name:
            value.add_(torch.randn_like(value) * 0.1)
    return dict(state)


def moco(arch: str = "resnet18", *, v2: bool = True, wrapper: str = "module.", seed: int = 0) -> dict[str, Any]:
    """The reference layout: facebookresearch/moco@7397dfe, main_moco.py."""
    state: dict[str, Tensor] = {}
    for which, offset in (("encoder_q", 0), ("encoder_k", 1000)):
        tensors = encoder(arch, seed + offset)
        width = tensors["fc.weight"].shape[1]
        if v2:
            tensors["fc.2.weight"], tensors["fc.2.bias"] = tensors.pop("fc.weight"), tensors.pop("fc.bias")
            tensors["fc.0.weight"], tensors["fc.0.bias"] = torch.randn(width, width), torch.zeros(width)
        state |= {f"{wrapper}{which}.{name}": value for name, value in tensors.items()}
    state[f"{wrapper}queue"] = torch.nn.functional.normalize(torch.randn(128, 64), dim=0)
    state[f"{wrapper}queue_ptr"] = torch.zeros(1, dtype=torch.long)
    return {"epoch": 200, "arch": arch, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def write(path: Path, content: object, **options: Any) -> Path:
    """`torch.save`, and the path."""
    torch.save(content, path, **options)
    return path
