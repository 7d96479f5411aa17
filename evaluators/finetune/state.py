"""A fine-tuning that was cut off goes on, to the bit: network, momentum and learning curve, saved between epochs."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converters import files
from converters.distributed import gather_values, rank, together
from evaluators.job import Job

TRAINING, TRIED = "training.pt", "tried.json"
_INTERVAL = 60.0
"""Seconds between two saved states: passes over a small data set are short, and a ResNet-50 with momentum is 200 MB."""


@dataclass(frozen=True)
class Tried:
    """What came of a pair of a grid."""

    score: float
    """Percent, on the images held out; 0 if it diverged."""
    diverged: str = ""
    """How, and when."""


class Progressed:
    """What is done of a job's trainings: what each pair of a grid reached; and the training under way.

    The main process reads and writes for all. What an attempt with other settings, backbone, data or seed left is
    ignored, and replaced.

    Args:
        job: in whose folder it lies. A job that is done afresh ignores what it finds.
        data_fingerprint: of the images.
    """

    def __init__(self, job: Job, data_fingerprint: str) -> None:
        self.folder = job.unfinished
        self.identity = job.identity(data_fingerprint)
        if rank() == 0 and job.fresh:
            for name in (TRAINING, TRIED):
                (self.folder / name).unlink(missing_ok=True)
        self.pairs: list[Tried] = gather_values(self._read() if rank() == 0 else [])[0]

    def training(self, name: str) -> State:
        """The state of one of the job's trainings."""
        return State(self.folder / TRAINING, f"{self.identity} {name}")

    def tried(self, pair: Tried) -> None:
        """Remember what came of another pair.

        Raises:
            CheckFailed: in every process, for a disk that fills.
        """
        self.pairs.append(pair)
        together(self._write)

    def _write(self) -> None:
        if rank() == 0:
            with files.whole(self.folder / TRIED) as partial:
                pairs = [astuple(pair) for pair in self.pairs]
                partial.write_text(json.dumps({"identity": self.identity, "pairs": pairs}))

    def _read(self) -> list[Tried]:
        path = self.folder / TRIED
        if not path.is_file():
            return []
        try:
            saved = json.loads(path.read_text())
            return [Tried(*pair) for pair in saved["pairs"]] if saved["identity"] == self.identity else []
        except (OSError, ValueError, KeyError, TypeError):
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
