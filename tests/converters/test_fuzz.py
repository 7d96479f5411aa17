"""The fuzzer of `benchmarks.fuzz`, a few hundred cases in this process."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.fuzz import Worker
from benchmarks.mutations import mutate, samples

CASES = 300


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(tmp_path_factory.mktemp("fuzz"), seed=20, whole=False)


def test_every_damaged_file_is_refused_in_one_line_or_read_as_what_it_is(worker: Worker) -> None:
    results = [worker.run(case) for case in range(CASES)]
    wrong = [result for result in results if result.outcome not in ("refused", "accepted")]
    assert not wrong
    # The damage is real, and reaches beyond the first check.
    assert sum(result.outcome == "refused" for result in results) > CASES // 2
    assert len({result.reason for result in results}) > 10
    assert {result.sample for result in results} == {sample.name for sample in samples()}


def test_a_case_is_told_by_its_seed_and_number() -> None:
    made = samples()
    for case in range(50):
        first, again = (mutate(made[0], made[1], random.Random(f"3:{case}"), "canary") for _ in range(2))
        assert first == again


def test_a_file_that_ran_code_or_left_one_would_be_seen(tmp_path: Path) -> None:
    worker = Worker(tmp_path, seed=0, whole=False)
    (tmp_path / "canary").touch()
    assert worker.run(1).outcome == "ran code"
    (tmp_path / "canary").unlink()
    (tmp_path / "case" / "left").touch()
    assert worker.run(1).outcome == "left a file"
