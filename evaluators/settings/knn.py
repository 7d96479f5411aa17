"""What the task `knn` can be told."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from evaluators.settings.base import FeatureSettings


class KnnSettings(FeatureSettings):
    """A vote among the nearest training images, on frozen features."""

    seeded: ClassVar[bool] = False
    """Nothing in it is random: one trial says all."""
    adjustable: ClassVar[frozenset[str]] = frozenset({"workers", "search_memory"})

    task: Literal["knn"] = "knn"
    layer: Literal["res5", "head"] = "res5"
    """Pooled res5, or the embedding behind the projection head."""
    k: tuple[PositiveInt, ...] = Field(min_length=1)
    """Numbers of neighbours; one search at the largest serves all."""
    vote: Literal["weighted", "majority"] = "weighted"
    """Every neighbour's vote counts exp(cos / T), or one."""
    temperature: float = Field(default=1.0, gt=0)
    """T of the weighted vote; a majority vote has none."""
    search: Literal["exact", "fp16", "ivf"] = "exact"
    """`fp16` and `ivf` may miss neighbours; how many they miss is measured and recorded."""
    probes: PositiveInt = 32
    """For `ivf`: lists that are searched, of 4·√N."""
    search_memory: int = Field(default=2 << 30, ge=128 << 20)
    """Bytes that the search may use besides its result, in main memory; the result does not depend on it."""
