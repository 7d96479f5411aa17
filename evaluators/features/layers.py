"""Which of a backbone's features: a stage, and how its map becomes a vector."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from converters.settings import Settings


class Layer(Settings):
    """A stage of the network and the pooling of its map C×H×W."""

    stage: Literal["stem", "res2", "res3", "res4", "res5", "head"] = "res5"
    """`stem` is behind conv1, BN and ReLU, before the max-pooling; `head` is the projection head on pooled res5."""
    pool: tuple[PositiveInt, PositiveInt, NonNegativeInt] | None = None
    """Kernel, stride and padding (of zeros, which count) of an average pooling, whose map is flattened in the order
    C, H, W; None: the global average."""


POOLED = Layer()
"""Pooled res5, which the network's own classifier would see."""
EMBEDDING = Layer(stage="head")
"""The 128-d embedding that MoCo contrasts, not yet normalised."""
