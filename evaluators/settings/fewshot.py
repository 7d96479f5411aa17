"""What the task `fewshot` can be told."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from evaluators.settings.base import FeatureSettings


class FewshotSettings(FeatureSettings):
    """Episodes: a few classes, a few images of each as support, others of the same classes as queries."""

    seeded: ClassVar[bool] = True

    task: Literal["fewshot"] = "fewshot"
    way: int = Field(default=5, ge=2)
    """Classes an episode."""
    shots: tuple[PositiveInt, ...] = Field(min_length=1)
    """Support images a class; each has episodes of its own."""
    queries: int = Field(default=15, gt=0)
    """Query images a class."""
    episodes: int = Field(default=600, ge=2)
