"""A fine-tuning that was cut off goes on, to the bit: network, momentum and learning curve, saved between epochs."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converters import files
from converters.distributed import gather_values, rank, together
from evaluators.job import Job

FILE, DONE = "unfinished.pt", "unfinished.json"
_INTERVAL = 60.0
"""Seconds between two saved states: passes over a small data set are short, and a ResNet-50 with momentum is 200 MB."""


class Progressed:
    """What is done of a job's trainings: the held-out accuracy of each pair of a grid; and the training under way.

    The main process reads and writes for all. What an attempt with other settings, backbone, data or seed left is
    ignored, and replaced.

    Args:
        job: in whose folder it lies. A job that is done afresh ignores what it finds.
        data_fingerprint: of the images.
    """

    def __init__(self, job: Job, data_fingerprint: str) -> None:
        self.folder = job.workdir
        content = {
            "backbone": job.backbone.fingerprint,
            "preprocess": job.backbone.preprocess.model_dump(mode="json"),
            "stride_in_1x1": job.backbone.stride_in_1x1,
            "protocol": job.protocol.id,
            "settings": job.protocol.settings.model_dump(mode="json"),
            "data": data_fingerprint,
            "seed": job.seed,
        }
        self.identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        if rank() == 0 and job.fresh:
            self.remove()
        self.accuracies: list[float] = gather_values(self._read() if rank() == 0 else [])[0]

    def training(self, name: str) -> State:
        """The state of one of the job's trainings."""
        return State(self.folder / FILE, f"{self.identity} {name}")

    def tried(self, accuracy: float) -> None:
        """Remember what another pair reached.

        Raises:
            CheckFailed: in every process, for a disk that fills.
        """
        self.accuracies.append(accuracy)
        together(self._write)

    def remove(self) -> None:
        """Forget all of it: the job is done."""
        if rank() == 0:
            for name in (FILE, DONE):
                (self.folder / name).unlink(missing_ok=True)

    def _write(self) -> None:
        if rank() == 0:
            with files.whole(self.folder / DONE) as partial:
                partial.write_text(json.dumps({"identity": self.identity, "accuracies": self.accuracies}))

    def _read(self) -> list[float]:
        path = self.folder / DONE
        if not path.is_file():
            return []
        try:
            saved = json.loads(path.read_text())
            return [float(value) for value in saved["accuracies"]] if saved["identity"] == self.identity else []
        except (ValueError, KeyError, TypeError):
            return []  # what can be computed again is no loss


class State:
    """One training between two epochs.

    Args:
        path: the file.
        identity: of the training; the state of another is ignored.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self._saved = time.monotonic()

    def load(self, module: nn.Module, sgd: torch.optim.Optimizer) -> list[dict[str, Any]]:
        """Put what was saved into network and optimizer of every process; the learning curve so far, empty if none."""
        saved: dict[str, Any] | None = gather_values(self._read() if rank() == 0 else None)[0]
        if saved is None:
            return []
        module.load_state_dict(saved["module"])
        sgd.load_state_dict(saved["sgd"])
        curve: list[dict[str, Any]] = saved["curve"]
        return curve

    def save(self, module: nn.Module, sgd: torch.optim.Optimizer, curve: list[dict[str, Any]], *, last: bool) -> None:
        """Save after an epoch, whole or not at all, if the last time was a while ago or the training is over.

        Raises:
            CheckFailed: in every process, for a disk that fills.
        """

        def action() -> None:
            if rank() == 0 and (last or time.monotonic() - self._saved >= _INTERVAL):
                content = {
                    "identity": self.identity,
                    "module": module.state_dict(),
                    "sgd": sgd.state_dict(),
                    "curve": curve,
                }
                with files.whole(self.path) as partial:
                    torch.save(content, partial)
                self._saved = time.monotonic()

        together(action)

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        try:
            saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            return saved if saved["identity"] == self.identity else None
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError):
            return None  # an epoch that can be computed again is no loss
