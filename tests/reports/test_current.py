"""Records held against the plan of their run."""

from __future__ import annotations

import pytest

from reports.collate import Cell, Table, collate
from reports.errors import ReportError
from reports.record import Record
from tests.reports.made import plan, planned, record, sha


def cell(table: Table, row: str, column: str = "knn-dino@1") -> Cell:
    return table.cells[row, column]


def column_names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def test_what_failed_and_what_is_missing() -> None:
    done = [record("a", seed=0), record("a", seed=1), record("b", seed=0)]
    table = collate(
        done,
        plan(
            *map(planned, done),
            planned(record("a", seed=2), "failed", "out of memory", "cells/x/log"),
            planned(record("b", seed=1), "missing"),
            planned(record("c", seed=0), "failed", "killed"),
            planned(record("c", seed=1), "missing"),
            planned(record("d", seed=0), "missing"),
            planned(record("e", "linear-m@1"), "failed", "no data"),
        ),
    )
    states = {row: cell(table, row).state for row in table.rows}
    assert states == {"a": "partial", "b": "partial", "c": "failed", "d": "missing", "e": "not planned"}
    assert [gap.reason for gap in cell(table, "a").failed] == ["out of memory"]
    assert (len(cell(table, "a").records), len(cell(table, "b").missing), len(cell(table, "c").missing)) == (2, 1, 1)
    # A column of which nothing is done yet is there all the same.
    assert cell(table, "e", "linear-m@1").state == "failed"
    assert cell(table, "e", "linear-m@1").mean is None


def test_a_planned_gap_falls_into_the_modified_column_that_it_belongs_to() -> None:
    changed = record("a", overrides=("k=[5]",), settings={"k": [5]})
    gap = planned(record("b", overrides=("k=[5]",)), "failed", "killed")
    table = collate([record("a"), changed], plan(planned(record("a")), planned(changed), gap))
    assert cell(table, "b", "knn-dino@1 modified: k=[5]").state == "failed"
    assert cell(table, "b").state == "not planned"


def test_a_record_counts_more_than_a_plan_that_is_older() -> None:
    done = record()
    failed = planned(done, "failed", "killed").model_copy(update={"cell_id": done.cell_id})
    table = collate([done], plan(failed))
    assert cell(table, "MoCo v2").state == "done"
    assert table.warnings == ()


def test_a_number_does_not_stand_in_for_weights_that_could_not_be_made() -> None:
    """The backbone is to be made again, and that failed: its cells have no id."""
    old = record("a", value=99)
    table = collate(
        [old, record("b")], plan(planned(old, "failed", "needs pretrain a, which failed"), planned(record("b")))
    )
    found = cell(table, "a")
    assert (found.state, found.mean, found.best) == ("failed", None, False)
    assert [gap.reason for gap in found.failed] == ["needs pretrain a, which failed"]
    (warning,) = table.warnings
    assert f"left out {old.cell_id}.json" in warning
    assert "needs pretrain a, which failed" in warning


def test_a_number_from_before_a_plan_whose_weights_are_not_there_yet_is_counted_and_said() -> None:
    old = record()
    table = collate([old], plan(planned(old, "missing"), planned(record(seed=1), "missing")))
    assert cell(table, "MoCo v2").n == 1
    assert [gap.trial_seed for gap in cell(table, "MoCo v2").missing] == [1]
    (warning,) = table.warnings
    assert warning.endswith("counted, but made before this plan; its weights may have been replaced.")


def test_the_plan_names_the_row_the_overrides_and_the_data() -> None:
    """A row that was renamed, an override spelled another way: the cell is the same, and so is its id."""
    old = [record("old", overrides=("lr=3",), settings={"lr": 3.0}, data="places", seed=seed) for seed in range(2)]
    new = {"row": "new", "overrides": ("lr=3.0",), "data": "imagenet"}
    missing = planned(record("new", overrides=("lr=3.0",), settings={"lr": 3.0}, seed=2), "missing")
    table = collate(old, plan(*(planned(one).model_copy(update=new) for one in old), missing))
    assert table.rows == ("new",)
    assert column_names(table) == ["knn-dino@1 modified: lr=3.0"]
    found = cell(table, "new", "knn-dino@1 modified: lr=3.0")
    assert (len(found.records), found.state, len(found.missing)) == (2, "partial", 1)
    assert [one.backbone.name for one in found.records] == ["new", "new"]
    assert found.column.dataset is not None
    assert found.column.dataset.name == "imagenet"
    assert not [warning for warning in table.warnings if "modified" not in warning]


def test_an_override_that_repeats_the_setting_does_not_take_the_number_out_of_the_plain_column() -> None:
    repeated = record(overrides=("k=[10, 20]",))
    named = planned(repeated).model_copy(update={"overrides": ()})
    assert column_names(collate([repeated], plan(named))) == ["knn-dino@1"]


def test_the_record_of_weights_that_two_rows_share_is_that_of_the_row_that_did_not_fail() -> None:
    done = record("b")
    twin = planned(done, "failed", "the same weights as b").model_copy(update={"row": "a", "cell_id": done.cell_id})
    for cells in ((twin, planned(done)), (planned(done), twin)):
        table = collate([done], plan(*cells))
        assert (cell(table, "a").state, cell(table, "b").state) == ("failed", "done")


def test_a_gap_falls_into_the_column_of_its_data_set() -> None:
    small, large = (record("a", data=data) for data in ("small", "large"))
    cells = [planned(small), planned(large)]
    gaps = [planned(record("b", data="small"), "missing"), planned(record("b", data="large"), "failed", "killed")]
    names = {data: f"knn-dino@1 on {data} {sha(data)[:8]}" for data in ("small", "large")}
    table = collate([small, large], plan(*cells, *gaps))
    assert cell(table, "b", names["small"]).state == "missing"
    assert cell(table, "b", names["large"]).state == "failed"
    # A record of the one data set says nothing about the other.
    table = collate([small], plan(planned(small), planned(large, "failed", "killed")))
    assert [(found.column.name, found.state) for found in table] == [
        (names["small"], "done"),
        ("knn-dino@1 on large", "failed"),
    ]
    assert len({column.title for column in table.columns}) == 2
    assert table.warnings == ()


def rivals() -> tuple[Record, Record]:
    return record(value=10, weights=sha("old")), record(value=20, weights=sha("new"))


def test_two_records_for_one_place_are_refused() -> None:
    old, new = rivals()
    with pytest.raises(ReportError) as error:
        collate([old, new])
    assert f"{old.cell_id}.json" in str(error.value)
    assert f"{new.cell_id}.json" in str(error.value)


def test_of_two_records_for_one_place_the_plan_names_the_current_one() -> None:
    old, new = rivals()
    table = collate([old, new], plan(planned(new)))
    assert cell(table, "MoCo v2").numbers == (20,)
    assert any(f"left out {old.cell_id}.json" in warning for warning in table.warnings)
    with pytest.raises(ReportError, match="one record of 'MoCo v2'"):
        collate([old, new], plan(planned(old), planned(new)))


def test_a_number_of_replaced_weights_does_not_stand_in_for_the_new_ones() -> None:
    old, new = rivals()
    failed = planned(new, "failed", "killed").model_copy(update={"cell_id": new.cell_id})
    table = collate([old], plan(failed))
    assert cell(table, "MoCo v2").state == "failed"
    assert cell(table, "MoCo v2").mean is None
    assert any(f"left out {old.cell_id}.json" in warning for warning in table.warnings)


def test_replaced_data_leave_the_old_number_out() -> None:
    old, new = record(value=10, cell_id="old"), record(value=20)
    old = old.model_copy(update={"dataset": old.dataset.model_copy(update={"fingerprint": sha("old")})})
    table = collate([old, new], plan(planned(new)))
    assert [found.numbers for found in table] == [(20,)]
    assert any(f"left out {old.cell_id}.json" in warning for warning in table.warnings)


def test_seeds_from_elsewhere_are_counted_and_said() -> None:
    table = collate([record(pretrain_seed=0), record(pretrain_seed=7)], plan(planned(record())))
    assert cell(table, "MoCo v2").n == 2
    (warning,) = table.warnings
    assert warning.startswith("MoCo v2, knn-dino@1, pretrain seed 7, trial seed 0: counted")


def test_a_checkpoint_may_know_the_seed_that_the_plan_does_not() -> None:
    old, new = rivals()
    known = planned(new).model_copy(update={"pretrain_seed": None})
    for records, warnings in (([new], 0), ([old, new], 1)):
        table = collate(records, plan(known))
        assert cell(table, "MoCo v2").state == "done"
        assert cell(table, "MoCo v2").numbers == (20,)
        assert len(table.warnings) == warnings
