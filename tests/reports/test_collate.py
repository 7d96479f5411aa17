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
