"""What a protocol is: a frozen, versioned recipe that says how a number is made. Pure data: no torch, no framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import Field

from converters.errors import UserError
from converters.settings import Settings, nearest, override
from evaluators.settings import TaskSettings
from evaluators.settings.knn import KnnSettings


class NotApplicable(UserError):
    """The backbone lacks what a protocol asks for, as the projection head: the cell has no number, and says why."""


class Expected(Settings):
    """A published number that this protocol should give."""

    method: str
    arch: str
    metric: str
    value: float
    spread: float | None = None
    """Standard deviation over trials, where the source prints one."""
    source: str


class Protocol(Settings):
    """A recipe under an id such as `linear-moco@1`; a change of any setting needs a new version."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*@[1-9][0-9]*$")
    title: str
    """The column head in tables."""
    citation: str
    definition: str
    """What the headline metric is, in a sentence."""
    headline: str = Field(min_length=1)
    """The name of the metric that tables show."""
    settings: TaskSettings
    expected: tuple[Expected, ...] = ()
    overrides: tuple[str, ...] = ()
    """Dotted assignments that were applied; any of them makes the result *modified*."""
    adjustments: tuple[str, ...] = Field(default=(), exclude=True)
    """Dotted assignments that change no number, as `workers=0`."""

    @property
    def task(self) -> str:
        """As `knn`; `evaluators.job.TASK_MODULES` has all."""
        return self.settings.task

    @property
    def needs_head(self) -> bool:
        """Whether features are taken behind the projection head."""
        return isinstance(self.settings, KnnSettings) and self.settings.layer == "head"

    def check_applicable(self, head: str | None, backbone: str | Path) -> None:
        """Tell where a backbone lacks what the protocol asks for.

        Args:
            head: fingerprint of the projection head that the backbone has; None for none.
            backbone: its name, for the message.

        Raises:
            NotApplicable: if it does.
        """
        if self.needs_head and head is None:
            raise NotApplicable(
                expected=f"a projection head for {self.id}",
                found="none beside this backbone",
                where=backbone,
                cure="a checkpoint of MoCo has one, and its conversion keeps it",
            )

    @property
    def modified(self) -> bool:
        """True when a setting differs from the frozen recipe."""
        return bool(self.overrides)

    def overridden(self, assignments: tuple[str, ...]) -> Self:
        """This protocol with dotted assignments to its settings, as `k=[1, 20]`.

        Raises:
            UserError: for an unknown setting or a wrong value.
        """
        assert not self.overrides + self.adjustments, "overrides are counted from the frozen recipe"
        frozen, settings = self.settings.model_dump(mode="json"), override(self.settings, assignments)
        changed = settings.model_dump(mode="json")
        # However they were spelled, the same changes are the same column; what changes nothing is no override.
        told = {key: f"{key}={json.dumps(changed[key])}" for key in sorted(frozen) if changed[key] != frozen[key]}
        free = adjustable(settings)
        overrides = tuple(assignment for key, assignment in told.items() if key not in free)
        adjustments = tuple(assignment for key, assignment in told.items() if key in free)
        return self.model_copy(update={"settings": settings, "overrides": overrides, "adjustments": adjustments})


def adjustable(settings: Settings) -> frozenset[str]:
    """The names of the settings that change no number."""
    found: frozenset[str] = getattr(settings, "adjustable", frozenset())
    return found


def find(protocol_id: str, catalogue: dict[str, Protocol]) -> Protocol:
    """The protocol with this id.

    Raises:
        UserError: for an unknown id, with the nearest one.
    """
    if protocol_id not in catalogue:
        raise UserError(expected="the id of a protocol", found=repr(protocol_id), cure=nearest(protocol_id, catalogue))
    return catalogue[protocol_id]
