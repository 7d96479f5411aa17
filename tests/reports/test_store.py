from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports.errors import ReportError
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
from reports.store import read_plan, read_record, read_records, write_plan, write_record
from tests.reports.made import plan, planned, record, sha

text = st.text(max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)
triple = st.tuples(number, number, number)
seed = st.integers(0, 2**40)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
json_object = st.dictionaries(text, json_value, max_size=3)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record that has its proof: such as one with the headline "\u00e9|" = -1e308 and the settings {"": [None]}."""
    weights = sha(draw(text))
    names = draw(st.lists(text, min_size=1, max_size=4, unique=True))
    task = draw(text | st.sampled_from(["detection", "finetune"]))
    return Record(
        cell_id=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)),
        protocol=ProtocolCard(
            id=draw(text),
            title=draw(text),
            task=task,
            citation=draw(text),
            definition=draw(text),
            headline=draw(st.sampled_from(names)),
            settings=draw(json_object),
            overrides=tuple(draw(st.lists(text, max_size=2))),
            expected=tuple(draw(st.lists(json_object, max_size=2))),
        ),
        backbone=BackboneCard(name=draw(text), fingerprint=weights, arch=draw(text), origin=draw(json_object)),
        dataset=DatasetCard(
            name=draw(text),
            layout=draw(text),
            fingerprint=draw(text),
            sample=draw(st.booleans()),
            images=draw(st.dictionaries(text, st.integers(0, 10**9), max_size=2)),
        ),
        pretrain_seed=draw(st.none() | seed),
        trial_seed=draw(seed),
        metrics=tuple(
            MetricValue(
                name=name,
                value=draw(number),
                unit=draw(text),
                higher_is_better=draw(st.booleans()),
                n=draw(st.integers(0, 10**12)),
            )
            for name in names
        ),
        receipt=ReceiptCard(
            framework=draw(text),
            backbone=weights,
            live=weights,
            tensors=draw(st.integers(1, 10**6)),
            preprocess=PreprocessCard(
                channel_order=draw(text),
                mean=draw(triple),
                std=draw(triple),
                value_range=draw(st.tuples(number, number)),
            ),
            stride_in_1x1=draw(st.booleans()),
            after=draw(st.sampled_from([None, weights])) if task in ("detection", "finetune") else weights,
            head=draw(st.none() | text),
        ),
        notes=tuple(draw(st.lists(text, max_size=2))),
        provenance=Provenance(
            command=draw(text),
            commit=draw(st.none() | text),
            dirty=draw(st.none() | st.booleans()),
            versions=draw(st.dictionaries(text, text, max_size=2)),
            device=draw(text),
            started=draw(text),
            wall_seconds=draw(number),
        ),
    )


@given(records())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_a_record_reads_back_equal(tmp_path: Path, original: Record) -> None:
    path = write_record(original, tmp_path, overwrite=True)
    assert path == tmp_path / f"{original.cell_id}.json"
    assert read_record(path) == original


def test_the_file_is_plain_json_that_other_tools_read(tmp_path: Path) -> None:
    made = record(row="Größe", value=0.1 + 0.2)
    data = json.loads(write_record(made, tmp_path / "results").read_text(encoding="utf-8"))
    assert data["schema_version"] == 2
    assert data["backbone"]["name"] == "Größe"
    assert data["metrics"][0]["value"] == 0.1 + 0.2


def test_writing_twice_is_fine_and_other_content_is_refused(tmp_path: Path) -> None:
    first = record(value=60.0)
    path = write_record(first, tmp_path)
    assert write_record(first, tmp_path) == path
    other = record(value=61.0)
    assert other.cell_id == first.cell_id
    with pytest.raises(ReportError, match=rf"{path}: expected no other record"):
        write_record(other, tmp_path)
    assert read_record(path) == first
    write_record(other, tmp_path, overwrite=True)
    assert read_record(path) == other


def test_tuples_in_settings_count_as_the_lists_that_json_makes_of_them(tmp_path: Path) -> None:
    made = record(settings={"k": (10, 20)})
    write_record(made, tmp_path)
    write_record(made, tmp_path)
    assert read_records(tmp_path)[0].protocol.settings == {"k": [10, 20]}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["settings", "origin"])
def test_nan_and_infinity_are_refused_on_writing_in_untyped_fields_too(
    tmp_path: Path, value: float, place: str
) -> None:
    made = record()
    if place == "settings":
        made = record(settings={"a": ({"b": value},)})
    else:
        made = made.model_copy(update={"backbone": made.backbone.model_copy(update={"origin": {"x": value}})})
    with pytest.raises(ReportError, match="finite number"):
        write_record(made, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["value", "temperature"])
def test_nan_and_infinity_are_refused_on_reading(tmp_path: Path, literal: str, key: str) -> None:
    path = write_record(record(value=60.0), tmp_path)
    number = "60.0" if key == "value" else "0.07"
    changed = path.read_text().replace(f'"{key}": {number}', f'"{key}": {literal}')
    assert literal in changed
    path.write_text(changed)
    with pytest.raises(ReportError, match=rf"{path}: expected (a )?finite"):
        read_record(path)


@pytest.mark.parametrize(
    ("version", "found"),
    [(3, "schema version 3"), ("1", 'schema version "1"'), (True, "true"), (None, "no schema version")],
)
def test_an_unknown_schema_version_names_those_understood(tmp_path: Path, version: object, found: str) -> None:
    path = write_record(record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(ReportError) as error:
        read_record(path)
    assert str(error.value).startswith(f"{path}: expected a record of schema version 1, 2, found")
    assert found in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b"{}", b'{"hello": 1}', b'{"schema_version": 1}', b"[" * 100_000],
    ids=["empty", "cut", "list", "number", "bytes", "no keys", "foreign", "bare", "deep"],
)
def test_foreign_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.json"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=rf"^{path}: expected .*, found"):
        read_records(tmp_path)


def test_every_cut_of_a_record_is_refused(tmp_path: Path) -> None:
    path = write_record(record(), tmp_path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ReportError, match=str(path)):
            read_record(path)


def test_an_unknown_key_and_a_number_in_quotes_are_refused(tmp_path: Path) -> None:
    path = write_record(record(), tmp_path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "sead": 1}))
    with pytest.raises(ReportError, match="'sead'"):
        read_record(path)
    data["metrics"][0]["value"] = "60.0"
    path.write_text(json.dumps(data))
    with pytest.raises(ReportError, match=r"'metrics.0.value'"):
        read_record(path)


def test_the_headline_must_be_there_and_each_metric_once(tmp_path: Path) -> None:
    made = record()
    with pytest.raises(ReportError, match="headline metric 'score'"):
        write_record(made.model_copy(update={"metrics": ()}), tmp_path)
    with pytest.raises(ReportError, match="each metric once"):
        write_record(made.model_copy(update={"metrics": made.metrics * 2}), tmp_path)


@pytest.mark.parametrize("cell_id", ["", "../x", "a/b", ".hidden", "a b", "x" * 300])
def test_a_cell_id_must_be_a_file_name(tmp_path: Path, cell_id: str) -> None:
    with pytest.raises(ReportError, match="cell id"):
        write_record(record().model_copy(update={"cell_id": cell_id}), tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_read_in_order_and_temporary_files_are_left_aside(tmp_path: Path) -> None:
    made = [record(seed=seed) for seed in range(5)]
    for one in reversed(made):
        path = write_record(one, tmp_path)
    (tmp_path / f".{path.name}.0123456789abcdef.tmp").write_bytes(path.read_bytes()[:50])
    (tmp_path / "._copied.json").write_bytes(b"\0")
    (tmp_path / "README").write_text("hello")
    assert read_records(tmp_path) == tuple(sorted(made, key=lambda one: one.cell_id))


def test_no_folder_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert read_records(tmp_path) == ()
    with pytest.raises(ReportError, match="a folder of records"):
        read_records(tmp_path / "absent")
    with pytest.raises(ReportError, match="a readable file"):
        read_record(tmp_path / "absent.json")


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    path = write_record(record(), tmp_path)
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    assert read_record(path) == record()
    for read in (lambda: read_record(copy), lambda: read_records(tmp_path)):
        with pytest.raises(ReportError, match=rf"^{copy}: expected the record of the cell copy, found that of"):
            read()


def _write_often(results: Path, value: float, start: object) -> None:
    start.wait()
    refused = 0
    for seed in range(40):
        try:
            write_record(record(seed=seed, value=value), results)
        except ReportError:
            refused += 1
    sys.exit(refused)


@pytest.mark.parametrize("values", [(60.0, 60.0), (60.0, 61.0)], ids=["same", "different"])
def test_two_processes_write_the_same_cells(tmp_path: Path, values: tuple[float, float]) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    writers = [context.Process(target=_write_often, args=(tmp_path, value, start)) for value in values]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    refused = sum(writer.exitcode for writer in writers)
    # Of two different records of a cell exactly one is kept; the same record twice is fine.
    assert refused == (0 if values[0] == values[1] else 40)
    assert len(read_records(tmp_path)) == 40
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_a_writer_killed_in_the_middle_leaves_no_record(tmp_path: Path) -> None:
    path = write_record(record(seed=1), tmp_path)
    # The process dies after half of the bytes have reached the disk.
    program = f"""
import os, signal
from pathlib import Path
from reports import store, files
from tests.reports.made import record
def die(descriptor):
    os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
files.os.fsync = die
store.write_record(record(seed=2), Path({str(tmp_path)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    assert any(left.suffix == ".tmp" for left in tmp_path.iterdir())
    assert read_records(tmp_path) == (read_record(path),)
    write_record(record(seed=2), tmp_path)
    assert len(read_records(tmp_path)) == 2


def test_a_plan_reads_back_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a" / "plan.json"
    assert read_plan(path) is None
    for state in ("missing", "failed"):
        made = plan(planned(record(), state, "out of memory"))
        write_plan(made, path)
        assert read_plan(path) == made
    path.write_text("{")
    with pytest.raises(ReportError, match=rf"{path}: expected whole JSON"):
        read_plan(path)


def test_writing_a_record_loads_neither_torch_nor_pandas() -> None:
    program = (
        "import sys, reports.store; print([name for name in ('torch', 'pandas', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
