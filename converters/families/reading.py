"""How to read a checkpoint where its keys alone do not decide."""

from __future__ import annotations

from typing import Literal

from converters.settings import Settings


class Reading(Settings):
    """What a user declares of a checkpoint; each field is told from the file where it is None."""

    family: str | None = None
    """One of `converters.families.names()`. `backbone` stands for the files that this toolkit writes."""
    encoder: Literal["q", "k"] | None = None
    """Of two encoders: the trained one (q: query, online, student) or the averaged one (k: key, target, teacher)."""
    prefix: str | None = None
    """Where the encoder is, as `module.pre.`: whatever is not under it is left out. Empty: the names are bare."""

    def __bool__(self) -> bool:
        """Whether anything is declared."""
        return self != Reading()
