"""The live network that is tuned: the backbone with its receipt, and a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from converters import keymap
from converters.architectures import ARCHITECTURES
from converters.errors import CheckFailed
from converters.fingerprint import fingerprint
from converters.receipt import Receipt, live_tensors, module_receipt
from evaluators.finetune.norm import declare
from evaluators.images import Transform, read_back
from evaluators.job import Job
from evaluators.settings.finetune import FinetuneSettings


def network(
    job: Job, settings: FinetuneSettings, *, num_classes: int, views: Sequence[Transform], seed: int
) -> tuple[nn.Module, Receipt]:
    """The network as it is before the first step, on the job's device, and the proof of what it holds.

    Args:
        job: whose backbone it is.
        settings: the classifier's start, and over how many images BN runs.
        num_classes: C.
        views: all transforms through which images will reach it; each is measured.
        seed: of the classifier's start.

    Returns:
        N×3×H×W -> N×C in train mode, all of it trainable; and its receipt, whose `after` stays None.

    Raises:
        CheckFailed: if the live tensors, the stride position or what a transform does differ from the backbone.
    """
    backbone = job.backbone
    module = backbone.module().to(job.device).requires_grad_(requires_grad=True)
    receipts = [module_receipt(module, backbone.metadata, read_back(view)) for view in views]
    module.fc = head(ARCHITECTURES[backbone.arch].feature_dim, num_classes, settings, seed).to(job.device)
    declare(module, settings.norm_images)
    # The receipt was taken of a plain network: what is trained must hold the same tensors still.
    held = fingerprint(live_tensors(module, keymap.torchvision(backbone.arch)))
    if held != backbone.fingerprint:
        raise CheckFailed(
            f"receipt: the network to be tuned does not hold the backbone: expected the fingerprint "
            f"{backbone.fingerprint[:12]}, found {held[:12]}"
        )
    return module.train(), receipts[0]


def head(feature_dim: int, num_classes: int, settings: FinetuneSettings, seed: int) -> nn.Linear:
    """The classifier D -> C at its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        fc = nn.Linear(feature_dim, num_classes)
    fc = fc.to_empty(device="cpu")
    if settings.head_init == "normal":
        nn.init.normal_(fc.weight, std=settings.init_std, generator=generator)
        nn.init.zeros_(fc.bias)
    else:
        bound = 1.0 / math.sqrt(feature_dim)
        for parameter in (fc.weight, fc.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return fc
