"""No number is written or read without its proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.errors import ReportError
from reports.record import Record
from reports.store import read_record, read_records, record_path, write_record
from tests.reports.made import record, sha


@pytest.mark.parametrize("task", ["knn", "linear", "detection", "segmentation"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"live": sha("b")},
        {"backbone": sha("b")},
        {"backbone": sha("b"), "live": sha("b")},
        {"after": sha("b")},
        {"after": ""},
    ],
)
def test_no_number_without_proof(tmp_path: Path, wrong: dict[str, str], task: str) -> None:
    _refused_without_proof(record(weights=sha("a"), protocol=f"{task}-x@1"), wrong, tmp_path)


@pytest.mark.parametrize("task", ["knn", "linear", "svm", "whatever"])
def test_a_frozen_evaluation_shows_that_the_backbone_did_not_change(tmp_path: Path, task: str) -> None:
    _refused_without_proof(record(weights=sha("a"), protocol=f"{task}-x@1"), {"after": None}, tmp_path)


def test_a_tuned_backbone_has_no_fingerprint_at_the_end(tmp_path: Path) -> None:
    made = record(protocol="detection-x@1")
    assert made.receipt.after is None
    assert read_record(write_record(made, tmp_path)) == made


@pytest.mark.parametrize(
    "key", ["framework", "backbone", "live", "tensors", "preprocess", "stride_in_1x1", "preprocess.std"]
)
def test_a_receipt_says_all_that_was_read_back(tmp_path: Path, key: str) -> None:
    path = write_record(record(), tmp_path)
    data = json.loads(path.read_text())
    inside = data["receipt"]["preprocess"] if "." in key else data["receipt"]
    del inside[key.removeprefix("preprocess.")]
    path.write_text(json.dumps(data))
    with pytest.raises(ReportError, match=rf"'receipt.{key}', found nothing .*; there is no number without proof"):
        read_record(path)


def test_a_receipt_of_no_tensor_is_none(tmp_path: Path) -> None:
    path = write_record(record(), tmp_path)
    path.write_text(path.read_text().replace('"tensors": 265', '"tensors": 0'))
    with pytest.raises(ReportError, match=r"'receipt.tensors', found 0"):
        read_record(path)


def _refused_without_proof(made: Record, wrong: dict[str, str | None], tmp_path: Path) -> None:
    made = made.model_copy(update={"receipt": made.receipt.model_copy(update=wrong)})
    with pytest.raises(ReportError, match="no number without proof"):
        write_record(made, tmp_path)
    assert list(tmp_path.iterdir()) == []
    path = record_path(tmp_path, made.cell_id)
    path.write_text(made.model_dump_json())
    with pytest.raises(ReportError, match=rf"{path}: expected a receipt"):
        read_records(tmp_path)


def test_two_empty_fingerprints_are_no_proof(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="64 hex digits"):
        write_record(record(weights=""), tmp_path)
