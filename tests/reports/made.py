"""Records made up for tests: `record(...)` with what a test does not care about filled in."""

from __future__ import annotations

import hashlib
from typing import Any

from reports.plan import Plan, PlannedCell
from reports.record import (
    BackboneCard,
    DatasetCard,
    MetricValue,
    PreprocessCard,
    ProtocolCard,
    Provenance,
    ReceiptCard,
    Record,
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def receipt(weights: str, after: str | None) -> ReceiptCard:
    return ReceiptCard(
        framework="torchvision",
        backbone=weights,
        live=weights,
        tensors=265,
        preprocess=PreprocessCard(
            channel_order="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), value_range=(0, 1)
        ),
        stride_in_1x1=False,
        after=after,
    )


def record(
    row: str = "MoCo v2",
    protocol: str = "knn-dino@1",
    value: float = 60.0,
    *,
    seed: int = 0,
    pretrain_seed: int | None = 0,
    overrides: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    data: str = "imagenet",
    sample: bool = False,
    unit: str = "%",
    higher_is_better: bool = True,
    others: tuple[MetricValue, ...] = (),
    title: str | None = None,
    weights: str | None = None,
    cell_id: str | None = None,
    notes: tuple[str, ...] = (),
) -> Record:
    """A record whose weights depend on the row and its pretraining seed, and its cell id on all that defines it."""
    weights = sha(f"weights of {row} {pretrain_seed}") if weights is None else weights
    task = protocol.split("-", maxsplit=1)[0]
    return Record(
        cell_id=cell_id or sha(f"{weights}{protocol}{overrides}{settings}{data}{seed}")[:16],
        protocol=ProtocolCard(
            id=protocol,
            title=title or task,
            task=task,
            citation="Caron et al., ICCV 2021, section 4.1",
            definition="Top-1 accuracy on the validation images.",
            headline="score",
            settings={"k": [10, 20], "temperature": 0.07} if settings is None else settings,
            overrides=overrides,
            expected=({"method": "MoCo v2", "metric": "score", "value": 60.7, "source": "Table 2"},),
        ),
        backbone=BackboneCard(name=row, fingerprint=weights, arch="resnet50", origin={"file": "moco.pth.tar"}),
        dataset=DatasetCard(
            name=data, layout="imagefolder", fingerprint=sha(data), sample=sample, images={"train": 100, "val": 50}
        ),
        pretrain_seed=pretrain_seed,
        trial_seed=seed,
        metrics=(
            MetricValue(name="score", value=value, unit=unit, higher_is_better=higher_is_better, n=50),
            *others,
        ),
        receipt=receipt(weights, after=None if task in ("detection", "segmentation", "finetune") else weights),
        notes=notes,
        provenance=Provenance(
            command=f"moco-transfer evaluate {protocol} --backbone b.safetensors --seed {seed}",
            commit="0" * 40,
            dirty=False,
            versions={"torch": "2.8.0"},
            device="cpu",
            started="2025-01-02T03:04:05Z",
            wall_seconds=12.5,
        ),
    )


def planned(record: Record, state: str = "done", reason: str = "", log: str = "") -> PlannedCell:
    """The planned cell of which `record` is the outcome; a cell that failed or is missing keeps the seeds alone."""
    return PlannedCell(
        row=record.backbone.name,
        protocol=record.protocol.id,
        overrides=record.protocol.overrides,
        data=record.dataset.name,
        pretrain_seed=record.pretrain_seed,
        trial_seed=record.trial_seed,
        state=state,
        reason=reason,
        log=log,
        cell_id=record.cell_id if state == "done" else None,
    )


def plan(*cells: PlannedCell, baseline: str | None = None) -> Plan:
    """Rows and columns in the order in which the cells name them first."""
    return Plan(
        name="quickstart",
        baseline=baseline,
        rows=tuple(dict.fromkeys(cell.row for cell in cells)),
        columns=tuple(dict.fromkeys(cell.protocol for cell in cells)),
        cells=cells,
    )
