"""`Record`: one immutable JSON file a finished cell, with all that is needed to believe and to repeat its numbers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2


class Frozen(BaseModel):
    """The base of all that is written down: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class MetricValue(Frozen):
    """One number."""

    name: str
    value: float
    unit: str
    higher_is_better: bool
    n: int


class ProtocolCard(Frozen):
    """The protocol as it was when the number was made."""

    id: str
    title: str
    task: str
    citation: str
    definition: str
    headline: str
    settings: dict[str, Any]
    overrides: tuple[str, ...] = ()
    expected: tuple[dict[str, Any], ...] = ()

    @property
    def modified(self) -> bool:
        """True when a setting differs from the frozen protocol: never in one column with published numbers."""
        return bool(self.overrides)


class BackboneCard(Frozen):
    """Which weights."""

    name: str
    """The row of a table: method, recipe and pretraining data, over which seeds are averaged."""
    fingerprint: str
    arch: str
    origin: dict[str, Any]


class DatasetCard(Frozen):
    """Which data."""

    name: str
    layout: str
    fingerprint: str
    sample: bool
    images: dict[str, int]


class PreprocessCard(Frozen):
    """How images entered the live model: channel order, and mean and std on the scale of `value_range`."""

    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    value_range: tuple[float, float]


class ReceiptCard(Frozen):
    """The proof: what was read back from the live model; the JSON form of `converters.receipt.Receipt`."""

    framework: str
    backbone: str
    """Fingerprint of the backbone that the evaluation was given."""
    live: str
    """Fingerprint of the tensors read back before the first iteration."""
    tensors: int = Field(ge=1)
    """How many were read back."""
    preprocess: PreprocessCard
    stride_in_1x1: bool
    after: str | None = None
    """Fingerprint after a frozen evaluation; None where the weights are tuned."""
    head: str | None = None
    """Fingerprint of the live projection head, where features are taken behind it."""


class Provenance(Frozen):
    """How to make the number again, and on what it was made."""

    command: str
    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    device: str
    started: str
    """ISO 8601, UTC."""
    wall_seconds: float


class Record(Frozen):
    """A finished cell."""

    schema_version: Literal[1, 2] = 2
    """2 added `receipt.head`."""
    cell_id: str
    protocol: ProtocolCard
    backbone: BackboneCard
    dataset: DatasetCard
    pretrain_seed: int | None
    trial_seed: int
    metrics: tuple[MetricValue, ...]
    receipt: ReceiptCard
    notes: tuple[str, ...] = ()
    provenance: Provenance
