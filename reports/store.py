"""The results "database": a folder with one immutable JSON file a finished cell, `results/<cell id>.json`.

Folders merge by copying. A file is whole or absent, and a number is written or read only with its proof.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from reports.errors import ReportError
from reports.files import write_whole
from reports.plan import Plan
from reports.record import SCHEMA_VERSION, Frozen, Record

TUNED_TASKS = ("detection", "segmentation", "finetune")
"""Tasks that change the backbone. All others leave it as it is, which their receipt shows by its fingerprint after the
evaluation."""

UNDERSTOOD = (1, SCHEMA_VERSION)
"""Schema versions of a record that can be read."""

_CELL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_NO_PROOF = "there is no number without proof: evaluate this cell again"
_SHA256 = re.compile(r"[0-9a-f]{64}")

F = TypeVar("F", bound=Frozen)


def record_path(results: Path, cell_id: str) -> Path:
    """Where the record of a cell lies."""
    return results / f"{cell_id}.json"


def write_record(record: Record, results: Path, *, overwrite: bool = False) -> Path:
    """Write a record into the folder `results`, which is made if absent.

    A record that is there already is left alone where its bytes are the same, also when two processes write at once.
    The same evaluation done twice gives other bytes, as it took another time: the second is refused.

    Args:
        record: with its proof (see `check_proof`).
        results: the folder.
        overwrite: replace another record of the same cell.

    Returns:
        The path of the file.

    Raises:
        ReportError: for a record without proof or with NaN, or if other bytes lie under this cell's name.
    """
    path = record_path(results, record.cell_id)
    content = to_json(record, path).encode()
    _check(record, path)
    results.mkdir(parents=True, exist_ok=True)
    try:
        write_whole(path, content, overwrite=overwrite)
    except FileExistsError:
        if path.read_bytes() != content:
            raise ReportError(
                expected="no other record of this cell",
                found="one with different content",
                where=path,
                cure="keep one of the two",
            ) from None
    return path


def read_record(path: Path) -> Record:
    """The record in the file at `path`.

    Raises:
        ReportError: naming the file, if it is absent, no whole JSON, no record, of a schema version not understood,
            holds NaN or infinity, has no proof, or lies under another name than that of its cell.
    """
    data = _read_json(path)
    version = data.get("schema_version")
    if type(version) is not int or version not in UNDERSTOOD:
        understood = ", ".join(str(known) for known in UNDERSTOOD)
        found = "no schema version" if version is None else f"schema version {json.dumps(version)}"
        raise ReportError(
            expected=f"a record of schema version {understood}",
            found=found,
            where=path,
            cure="update moco-transfer" if version is not None else "move files that are no records elsewhere",
        )
    record = _validate(Record, data, path)
    _check(record, path)
    if path.name != f"{record.cell_id}.json":
        raise ReportError(
            expected=f"the record of the cell {path.stem}",
            found=f"that of {record.cell_id}",
            where=path,
            cure=f"name it {record.cell_id}.json, or remove it if it is a copy",
        )
    return record


def read_records(results: Path) -> tuple[Record, ...]:
    """All records in a folder, ordered by cell id. Files that are still being written are left aside.

    Raises:
        ReportError: if there is no such folder, or for any file that `read_record` refuses.
    """
    if not results.is_dir():
        raise ReportError(expected="a folder of records", found="none", where=results, cure="check the path")
    paths = [path for path in results.glob("*.json") if not path.name.startswith(".")]
    return tuple(sorted(map(read_record, paths), key=lambda record: record.cell_id))


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan of a run; one that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_json(plan, path).encode(), overwrite=True)


def read_plan(path: Path) -> Plan | None:
    """The plan of a run; None where the run has none, as in a folder of copied records.

    Raises:
        ReportError: naming the file, if it is no plan.
    """
    return _validate(Plan, _read_json(path), path) if path.exists() else None


def to_json(content: Frozen, where: Path) -> str:
    """The JSON text of a record or a plan: indented, in UTF-8, with floats that read back bit for bit.

    Raises:
        ReportError: for NaN, infinity, or a value that JSON has no word for.
    """
    try:
        # Looked for before JSON mode, which turns a NaN in an untyped field into null without a word.
        _refuse_non_finite(content.model_dump(), where)
        data = content.model_dump(mode="json")
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode()
    except (PydanticSerializationError, TypeError, UnicodeEncodeError) as error:
        raise ReportError(expected="values that JSON can hold", found=str(error), where=where) from None
    return text


def check_proof(record: Record, where: Path) -> None:
    """No number without proof: the receipt must show the backbone's own fingerprint, read back from the live model.

    A frozen evaluation must show it once more, read back at the end.

    Raises:
        ReportError: naming the file and the entry that differs.
    """
    expected = record.backbone.fingerprint
    if not _SHA256.fullmatch(expected):
        raise ReportError(expected="a backbone fingerprint (64 hex digits)", found=repr(expected), where=where)
    receipt = record.receipt
    shown: dict[str, str | None] = {"backbone": receipt.backbone, "live": receipt.live}
    if receipt.after is not None or record.protocol.task not in TUNED_TASKS:
        shown["after"] = receipt.after
    for name, found in shown.items():
        if found != expected:
            raise ReportError(
                expected=f"a receipt whose {name!r} is the backbone's fingerprint {expected[:12]}",
                found=(found or "nothing")[:12],
                where=where,
                cure=_NO_PROOF,
            )

    if record.protocol.settings.get("layer") == "head" and not _SHA256.fullmatch(receipt.head or ""):
        raise ReportError(
            expected="a receipt with the fingerprint of the projection head",
            found=receipt.head or "nothing",
            where=where,
            cure=_NO_PROOF,
        )


def _check(record: Record, where: Path) -> None:
    """What a table relies on beyond the types."""
    if not _CELL_ID.fullmatch(record.cell_id):
        raise ReportError(
            expected="a cell id of letters, digits, dots, dashes and underscores",
            found=repr(record.cell_id),
            where=where,
        )
    names = [metric.name for metric in record.metrics]
    if record.protocol.headline not in names:
        raise ReportError(
            expected=f"the headline metric {record.protocol.headline!r} among the metrics",
            found=", ".join(names) or "no metric",
            where=where,
        )
    if len(set(names)) != len(names):
        raise ReportError(expected="each metric once", found=", ".join(names), where=where)
    check_proof(record, where)


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ReportError(expected="finite numbers", found=constant, where=path)

    try:
        data: object = json.loads(path.read_bytes(), parse_constant=refuse)
    except OSError as error:
        raise ReportError(expected="a readable file", found=error.strerror or "none", where=path) from None
    except (ValueError, RecursionError) as error:
        raise ReportError(
            expected="whole JSON",
            found=f"a damaged or foreign file ({error})",
            where=path,
            cure="delete it and run the suite again",
        ) from None
    if not isinstance(data, dict):
        raise ReportError(expected="a JSON object", found=type(data).__name__, where=path)
    _refuse_non_finite(data, path)
    return data


def _validate(model: type[F], data: dict[str, Any], path: Path) -> F:
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        raise ReportError(
            expected=f"a {model.__name__.lower()} with a valid {location!r}",
            found=f"{found} ({first['msg'].lower()})",
            where=path,
            cure=_NO_PROOF if first["loc"][:1] == ("receipt",) else None,
        ) from None


def _refuse_non_finite(data: object, where: Path) -> None:
    for location, value in _numbers(data, ""):
        if not math.isfinite(value):
            raise ReportError(expected=f"a finite number at {location!r}", found=str(value), where=where)


def _numbers(data: object, location: str) -> Iterator[tuple[str, float]]:
    """Every float below `data` with its dotted place."""
    if isinstance(data, float):
        yield location, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, f"{location}.{key}".removeprefix("."))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _numbers(value, f"{location}.{index}".removeprefix("."))
