from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converters.errors import CheckFailed
from evaluators.knn import agreement
from evaluators.knn.engines.choose import Choice, choices, first_that_works
from evaluators.knn.engines.cpu import FaissCpu
from evaluators.knn.engines.engine import Engine, EngineFault, Index
from evaluators.knn.engines.gpu import FaissGpu
from evaluators.knn.engines.gpu_probe import WIDTH, fault, fault_of, problem
from evaluators.knn.engines.matmul import Matmul
from evaluators.knn.search import nearest

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
BANK = np.abs(RNG.normal(size=(3000, 32))).astype(np.float32)
QUERIES = np.abs(RNG.normal(size=(50, 32))).astype(np.float32)


def right_answer() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    bank, queries = problem()
    truth = queries @ bank.T
    rows = np.argsort(-truth, axis=1)[:, :WIDTH]
    return np.take_along_axis(truth, rows, axis=1), rows


def another_row(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    rows[3, 5] = (set(range(WIDTH + 1)) - set(rows[3].tolist())).pop()


def a_row_twice(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    rows[7, -1] = rows[7, 0]


def no_row(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    rows[0, 0] = -1


def eleven_bits(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    scores *= np.float32(1 + 2**-11)


def not_a_number(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    scores[0, 0] = np.nan


def swapped(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    rows[[0, 1]] = rows[[1, 0]]


@pytest.mark.parametrize("lie", [None, another_row, a_row_twice, no_row, eleven_bits, not_a_number, swapped])
def test_the_probe_believes_only_a_right_answer(
    lie: Callable[[NDArray[np.float32], NDArray[np.int64]], None] | None, tmp_path: Path
) -> None:
    scores, rows = right_answer()
    if lie:
        lie(scores, rows)
    said = tmp_path / "answer"
    said.write_text(json.dumps({"scores": scores.tolist(), "rows": rows.tolist()}))
    child = [sys.executable, "-c", f"print(open({str(said)!r}).read())"]
    assert fault_of(child, patience=60) == ("its trial search found wrong neighbours" if lie else None)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os; os.abort()", "its trial search crashed (SIGABRT)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its trial search crashed (SIGSEGV)"),
        ("raise SystemExit('no kernel image')", "its trial search failed: no kernel image"),
        ("raise SystemExit(3)", "its trial search ended with exit code 3"),
        ("print('{}')", "its trial search gave no answer that can be read"),
        ("pass", "its trial search gave no answer that can be read"),
    ],
)
def test_the_probe_outlives_its_child(code: str, found: str) -> None:
    assert fault_of([sys.executable, "-c", code], patience=60) == found


def test_the_probe_does_not_wait_for_ever() -> None:
    reason = fault_of([sys.executable, "-c", "import time; time.sleep(60)"], patience=0.5)
    assert reason == "its trial search gave no answer in 0.5 s"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_real_probe_says_so() -> None:
    reason = fault(())
    assert reason is not None
    assert "FAISS sees no GPU" in reason or "built without GPUs" in reason


def preferred(
    device: str, search: Literal["exact", "fp16", "ivf"] = "exact", width: int = 52, processes: int = 1
) -> list[Choice]:
    return list(choices(torch.device(device), search, 8, width=width, processes=processes))


def test_the_order_of_preference() -> None:
    def names(among: list[Choice]) -> list[str]:
        return [type(choice.engine).__name__ for choice in among]

    assert names(preferred("cpu")) == names(preferred("cpu", "fp16")) == names(preferred("cuda", "ivf")) == ["FaissCpu"]
    assert names(preferred("cuda")) == names(preferred("cuda:1", "fp16")) == ["FaissGpu", "Matmul", "FaissCpu"]
    assert preferred("cuda:0", width=1025)[0].fault() == "it finds 1024 neighbours at most, and 1025 are wanted"


def test_one_process_searches_on_all_gpus_and_several_each_on_its_own() -> None:
    """A process group numbers every device: a process alone has the first one."""

    def gpus(device: torch.device, processes: int) -> tuple[int, ...]:
        engine = preferred(str(device), processes=processes)[0].engine
        assert isinstance(engine, FaissGpu)
        return engine.gpus

    assert gpus(torch.device("cuda"), 1) == gpus(torch.device("cuda", 0), 1) == ()
    assert gpus(torch.device("cuda", 1), 1) == (1,)  # the user's own choice
    assert [gpus(torch.device("cuda", rank), 2) for rank in range(2)] == [(0,), (1,)]


@dataclass(frozen=True)
class Bad:
    """FAISS's scores with a fault."""

    fault: str
    name: str = "a bad engine"
    exact: bool = True
    widest: int | None = None

    def index(self, block: NDArray[np.float32], workspace: int) -> Index:
        return _BadIndex(FaissCpu().index(block, workspace), self.fault)


@dataclass(frozen=True)
class _BadIndex:
    good: Index
    fault: str

    def search(self, queries: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, rows = self.good.search(queries, width)
        if self.fault == "TF32":
            scores = scores * np.float32(1 + 2**-11)
        elif self.fault == "NaN":
            scores[0, 3] = np.nan
        elif self.fault == "other rows":
            rows[1] = rows[0]
        else:
            raise RuntimeError("CUDA error 209: no kernel image is available\nat gpu/impl/Distance.cu:123")
        return scores, rows


@pytest.mark.parametrize("kind", ["TF32", "NaN", "other rows", "crash"])
def test_an_engine_that_computes_wrong_is_found_out_and_replaced(kind: str) -> None:
    def search(engine: Engine) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return nearest(BANK, QUERIES, 20, engine=engine)

    with pytest.raises(RuntimeError) as caught:
        search(Bad(kind))
    assert isinstance(caught.value, EngineFault) or kind == "crash"
    among = iter([Choice(Bad(kind), lambda: None), Choice(Matmul(CPU))])
    (similarities, rows), said = first_that_works(among, search)
    truth = nearest(BANK, QUERIES, 20)
    assert (similarities.tobytes(), rows.tobytes()) == (truth[0].tobytes(), truth[1].tobytes())
    assert said.startswith("neighbours: exact search by torch ")
    reason = str(caught.value).partition("\n")[0]
    assert f"; not a bad engine: {reason}" in said


def test_an_engine_whose_probe_fails_is_not_tried() -> None:
    among = iter([Choice(Bad("NaN"), lambda: "it crashed"), Choice(FaissCpu())])
    _, said = first_that_works(among, lambda engine: engine.name)
    assert said.startswith("neighbours: exact search by FAISS ")
    assert said.endswith(" on the CPU; not a bad engine: it crashed")
    with pytest.raises(CheckFailed, match="no engine could search: not a bad engine: it crashed"):
        first_that_works(iter([Choice(Bad("NaN"), lambda: "it crashed")]), lambda engine: engine.name)


def test_wider_than_an_engine_can_is_done_on_the_cpu_and_told() -> None:
    """400 equal rows, and an engine that finds 64 at most."""

    @dataclass(frozen=True)
    class Narrow(Matmul):
        widest = 64

        def index(self, block: NDArray[np.float32], workspace: int) -> Index:
            inner = super().index(block, workspace)

            class Held:
                def search(
                    self, queries: NDArray[np.float32], width: int
                ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
                    assert width <= 64
                    return inner.search(queries, width)

            return Held()

    bank = BANK[:1000].copy()
    bank[300:700] = bank[300]
    remarks: list[str] = []
    _, rows = nearest(bank, bank[300:301], 5, engine=Narrow(CPU), remarks=remarks)
    assert rows.tolist() == [[300, 301, 302, 303, 304]]
    assert remarks == ["float64 products by numpy on the CPU where neighbours are nearly equal"]
    nearest(bank, QUERIES, 5, engine=Narrow(CPU), remarks=remarks)
    assert len(remarks) == 1


def test_torchs_precision_is_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        nearest(BANK[:50], QUERIES[:2], 3, engine=Matmul(CPU))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "engine", [FaissCpu("fp16"), FaissCpu("ivf", probes=8), Matmul(CPU, half=True)], ids=["fp16", "ivf", "half"]
)
def test_approximate_engines_find_most_and_score_them_exactly(engine: Engine) -> None:
    exact_similarities, exact_rows = nearest(BANK, QUERIES, 20)
    similarities, rows = nearest(BANK, QUERIES, 20, engine=engine)
    shares = agreement.found(rows, exact_rows, 20)
    brute = [len(set(one) & set(other)) / 20 for one, other in zip(rows.tolist(), exact_rows.tolist(), strict=True)]
    assert shares.tolist() == brute
    assert 0.5 < shares.mean() <= 1
    scored = dict(zip(zip(*_pairs(exact_rows), strict=True), exact_similarities.ravel().tolist(), strict=True))
    for pair, similarity in zip(zip(*_pairs(rows), strict=True), similarities.ravel().tolist(), strict=True):
        assert scored.get(pair, similarity) == similarity
    assert (np.diff(similarities, axis=1) <= 0).all()


def _pairs(rows: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    return np.repeat(np.arange(len(rows)), rows.shape[1]).tolist(), rows.ravel().tolist()


def test_ivf_that_finds_too_few_says_so() -> None:
    """One list of many is searched: it holds fewer than k."""
    similarities, rows = nearest(BANK[:200], QUERIES, 150, engine=FaissCpu("ivf", probes=1))
    none = rows < 0
    assert none.any()
    assert (similarities[none] == -1).all()
    assert (none[:, 1:] >= none[:, :-1]).all()
    assert agreement.found(rows, nearest(BANK[:200], QUERIES, 150)[1], 150)[none.any(axis=1)].max() < 1


def test_the_sample_is_spread_over_all_queries() -> None:
    assert agreement.sample(7).tolist() == list(range(7))
    many = agreement.sample(50_000)
    assert (len(many), many[0], many[-1]) == (agreement.SAMPLE, 0, 49_999)


def test_the_problem_is_the_same_everywhere() -> None:
    (bank, queries), (again, _) = problem(), problem()
    assert bank.tobytes() == again.tobytes()
    assert np.linalg.norm(np.concatenate([bank, queries]), axis=1) == pytest.approx(1, abs=1e-6)
