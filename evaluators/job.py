"""The contract between a task and whoever runs it: a `Job` goes in, an `Outcome` comes out."""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from converters.backbone import Backbone
from converters.receipt import Receipt
from converters.settings import Settings
from evaluators.datasets.card import DatasetCard
from evaluators.protocol import Protocol, adjustable


class Metric(Settings):
    """One number with all that is needed to read it."""

    name: str
    value: float
    unit: str
    """`%` for AP, mIoU and accuracy (0 to 100, as papers print them)."""
    higher_is_better: bool
    n: int
    """How many test images, boxes or pixels it is taken over; `definition` of the protocol says which."""


@dataclass(frozen=True)
class Job:
    """One evaluation: everything that decides the number."""

    backbone: Backbone
    data: Path
    """The data set's root, in the layout that the protocol asks for."""
    protocol: Protocol
    seed: int
    device: torch.device
    workdir: Path
    """An existing folder of this job's own, for logs and by-products."""
    features: Path
    """Folder of the feature cache; made when it is needed, shared by all jobs of a run."""
    fresh: bool = False
    """Whether features in the cache are computed again, and unfinished work is left aside."""

    @property
    def unfinished(self) -> Path:
        """Folder of what a job needs to go on after it was cut off; whoever runs the job removes it at the end."""
        return self.workdir / "unfinished"

    def identity(self, data_fingerprint: str) -> str:
        """A digest of all that decides the number: unfinished work of another identity is not this job's.

        Args:
            data_fingerprint: of the images.
        """
        settings = self.protocol.settings
        content = {
            "backbone": self.backbone.fingerprint,
            "preprocess": self.backbone.preprocess.model_dump(mode="json"),
            "stride_in_1x1": self.backbone.stride_in_1x1,
            "protocol": self.protocol.id,
            "settings": settings.model_dump(mode="json", exclude=set(adjustable(settings))),
            "data": data_fingerprint,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found."""

    metrics: tuple[Metric, ...]
    receipt: Receipt
    dataset: DatasetCard
    notes: tuple[str, ...] = ()
    """Deviations that the reader of the number must know, as `SyncBN became BN: no GPU`."""
    head: str | None = None
    """Fingerprint of the live projection head, where features are taken behind it."""


TASK_MODULES = {
    "knn": "evaluators.knn.task",
    "linear": "evaluators.linear.task",
    "linear-multihead": "evaluators.linear.multihead",
    "linear-cached": "evaluators.linear.cached",
    "manyshot": "evaluators.linear.manyshot",
    "svm": "evaluators.svm.task",
    "finetune": "evaluators.finetune.task",
    "fewshot": "evaluators.fewshot.task",
    "detection": "evaluators.detection.task",
    "segmentation": "evaluators.segmentation.task",
}


def evaluate(job: Job) -> Outcome:
    """Run the job's protocol. Each task's module has a function `evaluate(job)`.

    Under a process group every process calls it with the same job, but for the device; they share the work, the main
    process alone writes into `workdir`, and all return the same outcome.

    Raises:
        UserError: for wrong input.
        NotApplicable: if the backbone lacks what the protocol asks for.
        CheckFailed: if the receipt does not hold.
    """
    outcome: Outcome = importlib.import_module(TASK_MODULES[job.protocol.task]).evaluate(job)
    return outcome
