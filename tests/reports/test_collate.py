from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.collate import Cell, Table, collate
from reports.errors import ReportError
from reports.frame import record_frame
from reports.record import Record
from reports.tables import markdown
from tests.reports.made import plan, planned, record, sha


def cell(table: Table, row: str, column: str = "knn-dino@1") -> Cell:
    return table.cells[row, column]


def column_names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_mean_and_std_are_those_of_numpy(values: list[float]) -> None:
    records = [record(protocol="linear-m@1", value=value, seed=seed) for seed, value in enumerate(values)]
    found = cell(collate(records), "MoCo v2", "linear-m@1")
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12)
    if len(values) == 1:
        assert found.std is None
    else:
        assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-9)


def test_the_table_agrees_with_a_group_by_of_the_long_frame() -> None:
    draw = random.Random(0)
    records = [
        record(row, protocol, draw.uniform(0, 100), pretrain_seed=seed)
        for row in ("a", "b", "c")
        for protocol in ("knn-dino@1", "linear-moco@1")
        for seed in range(4)
    ]
    frame = record_frame(records)
    groups = frame[frame.headline].groupby(["backbone", "protocol"]).value.agg(["mean", "std", "count"])
    for found in collate(records):
        mean, std, count = groups.loc[(found.row, found.column.name)]
        assert (found.mean, found.std, found.n) == (pytest.approx(mean), pytest.approx(std), count)


@pytest.mark.parametrize(
    ("seeds", "over"),
    [
        ([(0, 0)], ""),
        ([(0, 0), (1, 0)], "pretrain seeds"),
        ([(0, 0), (0, 1)], "trial seeds"),
        ([(None, 0), (None, 1)], "trial seeds"),
        ([(0, 0), (1, 1)], "pretrain and trial seeds"),
    ],
)
def test_a_cell_says_what_its_spread_runs_over(seeds: list[tuple[int | None, int]], over: str) -> None:
    records = [record(protocol="linear-m@1", pretrain_seed=pretrain, seed=trial) for pretrain, trial in seeds]
    assert cell(collate(records), "MoCo v2", "linear-m@1").over == over


def test_trial_seeds_of_knn_repeat_a_run() -> None:
    """Three times the same number is no spread of zero."""
    found = cell(collate([record(seed=seed) for seed in range(3)]), "MoCo v2")
    assert (found.n, found.std, found.over, len(found.records)) == (1, None, "", 3)
    found = cell(
        collate([record(pretrain_seed=seed // 2, seed=seed % 2, value=seed // 2) for seed in range(4)]), "MoCo v2"
    )
    assert (found.numbers, found.over) == ((0, 1), "pretrain seeds")
    assert found.std == pytest.approx(0.5**0.5)
    # Weights that give the same number by chance are two runs; so are trial seeds that do not, whatever the reason.
    assert cell(collate([record(pretrain_seed=seed) for seed in range(2)]), "MoCo v2").n == 2
    assert cell(collate([record(seed=seed, value=seed) for seed in range(2)]), "MoCo v2").n == 2
    assert (
        cell(collate([record(protocol="linear-m@1", seed=seed) for seed in range(2)]), "MoCo v2", "linear-m@1").n == 2
    )


def test_repeated_runs_of_knn_are_said() -> None:
    text = markdown(collate([record(seed=seed) for seed in range(3)]))
    assert "60.0 (1)" in text
    assert "kNN draws nothing at random: other trial seeds repeat a run, and are not counted (2 runs)" in text


@given(st.permutations(range(8)))
def test_the_order_of_the_records_does_not_matter(order: Sequence[int]) -> None:
    records = [
        *(record(row, value=60 + seed, pretrain_seed=seed) for row in ("b", "a") for seed in range(2)),
        record("a", "linear-moco@1", overrides=("lr=3",)),
        record("a", "linear-moco@1"),
        record("b", "linear-moco@1", data="other"),
        record("b", "zzz-new@2"),
    ]
    assert markdown(collate([records[place] for place in order])) == markdown(collate(records))


def test_rows_and_columns_without_a_plan() -> None:
    protocols = ["segmentation-x@1", "other@1", "linear-a@1", "detection-b@1", "knn-z@1"]
    table = collate([record(row, protocol) for row in ("b", "c", "a") for protocol in protocols], name="copied")
    assert table.rows == ("a", "b", "c")
    assert column_names(table) == ["knn-z@1", "linear-a@1", "detection-b@1", "segmentation-x@1", "other@1"]
    assert table.title == "copied"


def test_rows_and_columns_follow_the_plan_and_what_is_not_in_it_comes_last() -> None:
    inside = [record(row, protocol) for row in ("z", "m") for protocol in ("linear-a@1", "knn-z@1")]
    outside = [record("a", "aaa@1"), record("b", "knn-z@1")]
    table = collate([*outside, *inside], plan(*map(planned, inside)))
    assert table.rows == ("z", "m", "a", "b")
    assert column_names(table) == ["linear-a@1", "knn-z@1", "aaa@1"]
    assert cell(table, "a", "knn-z@1").state == "not planned"
    assert cell(table, "b", "knn-z@1").state == "done"


def bests(values: dict[str, float], *, higher: bool = True, unit: str = "%") -> set[str]:
    table = collate([record(row, value=value, higher_is_better=higher, unit=unit) for row, value in values.items()])
    return {found.row for found in table if found.best}


def test_the_best_is_the_highest_or_where_lower_is_better_the_lowest() -> None:
    values = {"a": 50.0, "b": 60.0, "c": 40.0}
    assert bests(values) == {"b"}
    assert bests(values, higher=False) == {"c"}


def test_numbers_that_print_alike_share_the_best() -> None:
    assert bests({"a": 60.04, "b": 60.0, "c": 59.0}) == {"a", "b"}
    assert bests({"a": 60.04, "b": 59.94, "c": 59.0}) == {"a"}
    assert bests({"a": 0.6004, "b": 0.6, "c": 0.5994}, unit="") == {"a", "b"}


def test_nothing_is_best_without_a_worse() -> None:
    assert bests({"a": 60.0}) == set()
    assert bests({"a": 60.0, "b": 60.01}) == set()


def test_each_column_has_its_own_best() -> None:
    table = collate(
        [record("a", value=1), record("b", value=2), record("a", "linear-m@1", 4), record("b", "linear-m@1", 3)]
    )
    assert {(found.row, found.column.name) for found in table if found.best} == {
        ("b", "knn-dino@1"),
        ("a", "linear-m@1"),
    }


@pytest.mark.parametrize("higher", [True, False])
def test_deltas_are_to_the_mean_of_the_baseline(higher: bool) -> None:
    values = {"base": (50.0, 52.0), "up": (60.0, 61.0), "down": (49.0, 49.0), "same": (51.0, 51.04)}
    records = [
        record(row, value=value, seed=seed, higher_is_better=higher)
        for row, pair in values.items()
        for seed, value in enumerate(pair)
    ]
    table = collate(records, baseline="base")
    assert cell(table, "base").delta is None
    assert cell(table, "up").delta == pytest.approx(60.5 - 51.0)
    assert cell(table, "down").delta == pytest.approx(-2.0)
    assert cell(table, "up").better is higher
    assert cell(table, "down").better is not higher
    assert cell(table, "same").better is None  # prints as 0.0


def test_no_delta_where_the_baseline_has_no_number() -> None:
    records = [record("base", "linear-m@1"), record("a"), record("a", "linear-m@1")]
    table = collate(records, plan(*map(planned, records), planned(record("base"), "failed", "broken")), "base")
    assert cell(table, "a").delta is None
    assert cell(table, "a", "linear-m@1").delta == 0.0


def test_the_baseline_of_the_plan_unless_another_is_chosen() -> None:
    records = [record("a", value=1), record("b", value=2)]
    made = plan(*map(planned, records), baseline="a")
    assert cell(collate(records, made), "b").delta == 1
    assert cell(collate(records, made, baseline="b"), "a").delta == -1
    with pytest.raises(ReportError, match=r"found 'MoCo v3'; did you mean 'MoCo v2'\?"):
        collate([record()], baseline="MoCo v3")
    with pytest.raises(ReportError, match=r"found 'xyz'; rows: MoCo v2"):
        collate([record()], baseline="xyz")


def test_modified_protocols_have_columns_of_their_own() -> None:
    changed = {"k": [5], "temperature": 0.07}
    records = [
        record("a", value=60),
        record("b", value=99, overrides=("k=[5]",), settings=changed),
        record("c", value=98, overrides=("k=[5]", "temperature=0.07"), settings=changed),
        record("d", value=97, overrides=("temperature=0.07", "k=[5]"), settings=changed),
    ]
    table = collate(records)
    # The order in which the same overrides were given makes no difference.
    assert column_names(table) == [
        "knn-dino@1",
        "knn-dino@1 modified: k=[5]",
        "knn-dino@1 modified: k=[5], temperature=0.07",
    ]
    assert [column.modified for column in table.columns] == [False, True, True]
    assert all("modified" in column.title for column in table.columns[1:])
    assert sum("not comparable with published numbers" in warning for warning in table.warnings) == 2
    assert cell(table, "b").state == "missing"
    assert cell(table, "d", column_names(table)[2]).n == 1


def test_different_data_are_split_and_said() -> None:
    table = collate([record("a"), record("b"), record("c", data="other")])
    assert column_names(table) == [
        f"knn-dino@1 on imagenet {sha('imagenet')[:8]}",
        f"knn-dino@1 on other {sha('other')[:8]}",
    ]
    assert any("made on different data" in warning for warning in table.warnings)
    assert {(found.row, found.column.dataset.name) for found in table if found.n} == {
        ("a", "imagenet"),
        ("b", "imagenet"),
        ("c", "other"),
    }


def test_seeds_on_different_data_are_never_averaged() -> None:
    table = collate([record(seed=0, value=10), record(seed=1, value=20, data="other")])
    assert sorted(found.mean for found in table) == [10, 20]


def test_a_protocol_that_changed_without_a_new_version_is_split_and_said() -> None:
    table = collate([record("a"), record("b", settings={"k": [7]})])
    assert [found.n for found in table] in ([1, 0, 0, 1], [0, 1, 1, 0])
    assert len(set(column_names(table))) == len({column.title for column in table.columns}) == 2
    assert any("different settings under one id" in warning for warning in table.warnings)


def test_two_protocols_of_one_title_are_told_apart() -> None:
    table = collate([record(protocol=f"detection-{name}@1", title="Detection") for name in ("voc", "coco")])
    assert sorted(column.title for column in table.columns) == [
        "Detection, detection-coco@1",
        "Detection, detection-voc@1",
    ]


def test_titles_stay_apart_where_everything_else_is_alike() -> None:
    changed = [
        record(protocol=f"detection-{name}@1", title="Detection", overrides=("lr=1",)) for name in ("voc", "coco")
    ]
    titles = {column.title for column in collate([*changed, record(title="kNN")]).columns}
    assert titles == {
        "kNN",
        "Detection, detection-coco@1 modified: lr=1",
        "Detection, detection-voc@1 modified: lr=1",
    }


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


def test_a_row_of_different_recipes_is_said() -> None:
    origins = ({"recipe": "moco-v2@1", "pretrain_data": sha("a")}, {"recipe": "moco-v2@1", "pretrain_data": sha("b")})
    records = [
        made.model_copy(update={"backbone": made.backbone.model_copy(update={"origin": origin})})
        for made, origin in zip((record(pretrain_seed=0), record(pretrain_seed=1)), origins, strict=True)
    ]
    (warning,) = collate(records).warnings
    assert warning.startswith("MoCo v2: the backbones of this row differ in their pretrain data (")
    assert sha("a")[:8] in warning


def test_a_row_of_different_weights_is_said() -> None:
    table = collate([record(weights=sha("x")), record(protocol="linear-m@1", weights=sha("y"))])
    assert any("MoCo v2 with pretrain seed 0: the numbers are of different weights" in one for one in table.warnings)
    assert collate([record(pretrain_seed=0), record(pretrain_seed=1)]).warnings == ()


def test_weights_of_a_row_in_the_order_of_the_seeds() -> None:
    records = [
        record(pretrain_seed=seed, protocol=protocol) for seed in (2, 0, 1) for protocol in ("knn-a@1", "linear-a@1")
    ]
    expected = tuple(sha(f"weights of MoCo v2 {seed}") for seed in range(3))
    assert collate(records).weights("MoCo v2") == expected


def test_one_column_has_one_unit_and_direction() -> None:
    with pytest.raises(ReportError, match="column knn-dino@1: expected one unit and direction"):
        collate([record("a"), record("b", unit="")])
    with pytest.raises(ReportError, match="one unit and direction"):
        collate([record("a"), record("b", higher_is_better=False)])


def test_the_long_frame_has_every_metric_and_whole_seeds() -> None:
    frame = record_frame([record(pretrain_seed=None), record(pretrain_seed=3)])
    assert len(frame) == 2
    assert frame.pretrain_seed.tolist() == [pd.NA, 3]
    assert record_frame([]).empty
