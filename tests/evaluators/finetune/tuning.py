"""A small job of fine-tuning, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from converters.backbone import Backbone
from evaluators.datasets.labelled import LabelledImages
from evaluators.finetune.model import network
from evaluators.images import Images, random_view
from evaluators.job import Job
from evaluators.protocols import CATALOGUE
from evaluators.settings.finetune import FinetuneSettings

SETTINGS = FinetuneSettings(
    epochs=2,
    batch_size=7,
    lr=(0.02,),
    head_lr_factor=5.0,
    weight_decay=(1e-3,),
    milestones=(1,),
    gamma=0.2,
    crop=40,
    resize=44,
    interpolation="bilinear",
    workers=0,
)
SEED = 3


def job(backbone: Backbone, data: Path, workdir: Path, *overrides: str, protocol: str = "finetune-imagenet@1") -> Job:
    """A job on the CPU with seed `SEED`."""
    return Job(
        backbone,
        data,
        CATALOGUE[protocol].overridden(overrides),
        seed=SEED,
        device=torch.device("cpu"),
        workdir=workdir,
        features=workdir / "features",
    )


def start(
    backbone: Backbone, data: LabelledImages, workdir: Path, settings: FinetuneSettings = SETTINGS
) -> tuple[nn.Module, Images]:
    """The network before its first step, and its training images."""
    view = random_view(
        backbone.preprocess, crop=settings.crop, scale=settings.crop_scale, interpolation=settings.interpolation
    )
    module, receipt = network(
        job(backbone, data.root, workdir), settings, num_classes=len(data.classes), views=[view], seed=1
    )
    assert receipt.live == backbone.fingerprint
    return module, Images(data.train, view, seed=(SEED, 2))
