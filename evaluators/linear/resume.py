"""A training that was cut off goes on: its tensors and what is known so far, saved step by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from converters.distributed import from_main, gather_values, rank, together
from converters.files import whole
from evaluators.job import Job
from evaluators.protocol import adjustable

_METADATA = "training"


class Unfinished:
    """The saved state of a job's training in `job.unfinished`; the main process writes it and reads it for all.

    A state of other settings, backbone, data or seed is not this job's: it is ignored, and replaced at the next step.
    Settings that change no number, as `workers`, are not looked at. Whoever runs the job removes the folder.

    Args:
        job: whose folder it is. A job that is done afresh forgets what it finds.
        data_fingerprint: of the images.
        name: of the training, where a job has several.
    """

    def __init__(self, job: Job, data_fingerprint: str, name: str = "training") -> None:
        self.path = job.unfinished / f"{name}.safetensors"
        if job.fresh and rank() == 0:
            self.path.unlink(missing_ok=True)
        content = {
            "backbone": job.backbone.fingerprint,
            "preprocess": job.backbone.preprocess.model_dump(mode="json"),
            "protocol": job.protocol.id,
            "settings": job.protocol.settings.model_dump(mode="json", exclude=set(adjustable(job.protocol.settings))),
            "data": data_fingerprint,
            "seed": job.seed,
        }
        self._identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def load(self, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Put the saved tensors into those of every process; the facts saved with them, or None if there are none."""
        found = self._read() if rank() == 0 else None
        facts: dict[str, Any] | None = gather_values(None if found is None else found[0])[0]
        if facts is None:
            return None
        for name, tensor in state.items():
            if found is not None:
                tensor.copy_(found[1][name])
            from_main(tensor)
        return facts

    def save(self, state: Mapping[str, Tensor], facts: Mapping[str, Any], write: Callable[[], object]) -> None:
        """Save whole or not at all; `write` writes the by-products that go with it, before.

        Raises:
            CheckFailed: in every process, for a disk that fills.
        """

        def action() -> None:
            if rank() == 0:
                write()
                tensors = {name: tensor.cpu() for name, tensor in state.items()}
                text = json.dumps({"identity": self._identity, "facts": dict(facts)})
                with whole(self.path) as partial:
                    save_file(tensors, partial, metadata={_METADATA: text})

        together(action)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                saved = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
                if saved.get("identity") != self._identity:
                    return None
                return saved["facts"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, ValueError, OSError):
            # Damaged by whatever it was: an epoch that can be computed again is no loss.
            return None
