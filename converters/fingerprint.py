"""The fingerprint of weights: the same in whichever container they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

BATCH_COUNTER = "num_batches_tracked"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) that identifies weights in whichever container they lie.

    Taken over parameters and running statistics in the order of their torchvision names. Of each: the name, the dtype,
    the shape as JSON, each closed by a zero byte, then the little-endian bytes. Batch counters, which some families
    drop, stay out: 265 tensors for a ResNet-50.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith(BATCH_COUNTER):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        header = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{json.dumps(list(tensor.shape))}\0"
        digest.update(header.encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
