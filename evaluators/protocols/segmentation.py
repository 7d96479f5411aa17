"""The frozen protocols of the task `segmentation`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
