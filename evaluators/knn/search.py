"""Exact cosine search of a bank that may be larger than memory, in an order that is declared.

Whatever the engine, the blocks, the threads: the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.errors import CheckFailed, UserError
from converters.progress import Progress
from evaluators.knn import all_rows, keys
from evaluators.knn.engines.cpu import FaissCpu, threads
from evaluators.knn.engines.engine import Engine, EngineFault, Index, slack
from evaluators.knn.rows import unit

MEMORY = 2 << 30
"""Bytes that a search may use by default, besides its result."""
OVERFETCH = 32
"""Neighbours fetched beyond k at first."""
_CANDIDATE_BYTES = 96
"""What a candidate costs on its way: FAISS's heap, score, index, key, and their copies."""
_PIECE_BYTES = 512 << 10
"""Candidates' rows that are scored at a time: with their copy in float64 they stay in a core's cache."""


@dataclass(frozen=True)
class Budget:
    """How `memory` is shared out."""

    block: int
    """Rows of the bank held at a time, as unit vectors: half of the memory, with the copy that fp16 and IVF make."""
    chunk: int
    """Queries held at a time: a quarter."""
    candidates: int
    """Candidates held at a time, over all queries of a search: an eighth; the last eighth is the engine's."""
    workspace: int
    """The engine's bytes."""

    @classmethod
    def of(cls, memory: int, dim: int, k: int, *, exact: bool) -> Budget:
        """For D dimensions, k neighbours, and an engine that is exact or not."""
        return cls(
            block=max(1, memory // (2 if exact else 4) // (4 * dim)),
            chunk=max(1, memory // 4 // (4 * dim + 32 * k)),
            candidates=max(1, memory // 8 // _CANDIDATE_BYTES),
            workspace=memory // 8,
        )


def nearest(
    bank: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    engine: Engine | None = None,
    memory: int = MEMORY,
    label: str | None = None,
    remarks: list[str] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows of the bank with the largest cosine to each query.

    A similarity is the dot product of the float32 unit vectors, computed in float64 and rounded to float32; rows of
    equal similarity rank by the lower bank index. An engine's own float32 scores depend on where a row lies in a block,
    so they only choose candidates: more than k are fetched and scored anew, and the fetch widens until no row left out
    can belong to the k. Where that would take very many, as with features that are nearly equal, all rows are compared
    in float64 instead. That the engine's scores are as near to the true ones as this needs is checked on every
    candidate.

    Args:
        bank: N×D features of any length, finite; may be memory-mapped.
        queries: Q×D, likewise.
        k: at most N.
        engine: finds the candidates; FAISS on the CPU by default. One that is not exact may miss neighbours.
        memory: bytes that may be used besides the features and the result.
        label: what a progress display says; None for none.
        remarks: what searched besides the engine is added here, once.

    Returns:
        Similarities Q×k in falling order, and bank indices Q×k; -1 and -1 where an engine that is not exact found fewer
        than k.

    Raises:
        CheckFailed: if a row holds NaN or infinity, or the bank has another D than the queries.
        UserError: for an empty bank.
        EngineFault: if the engine computed something wrong.
    """
    if not len(bank):
        raise UserError(expected="training images to compare with", found="none", where="kNN")
    if bank.shape[1] != queries.shape[1]:
        raise CheckFailed(f"the bank's features have D = {bank.shape[1]}, the queries' D = {queries.shape[1]}")
    assert 1 <= k <= len(bank) < 2**32, f"k {k} of {len(bank)} rows"
    engine = engine or FaissCpu()
    budget = Budget.of(memory, bank.shape[1], k, exact=engine.exact)
    best = np.full((len(queries), k), keys.NONE, dtype=np.uint64)
    starts = range(0, len(bank), budget.block)
    progress = Progress(label, len(queries) * len(starts), unit="query·block") if label else None
    with progress or nullcontext(), ThreadPoolExecutor(threads()) as pool:
        search = _Search(engine, budget, slack(bank.shape[1]), pool)
        for first in range(0, len(queries), budget.chunk):
            last = min(first + budget.chunk, len(queries))
            units = unit(queries, first, last, name="the feature of validation image")
            for start in starts:
                end = min(start + budget.block, len(bank))
                block = unit(bank, start, end, name="the feature of training image")
                for done in search.block(start, block, units, best[first:last]):
                    if progress:
                        progress.step(done)
                del block  # before the next is made: two would be held
        if remarks is not None and search.compared_all:
            remarks.append(all_rows.NAME)
    return keys.unpack(best)


@dataclass(frozen=True)
class _Block:
    """Rows of the bank that are searched together."""

    start: int
    """The bank index of the first."""
    units: NDArray[np.float32]
    index: Index


class _Search:
    def __init__(self, engine: Engine, budget: Budget, slack: float, pool: ThreadPoolExecutor) -> None:
        self.engine, self.budget, self.slack, self.pool = engine, budget, slack, pool
        self.compared_all = False
        """Whether the engine could not settle some query."""

    def block(
        self, start: int, units: NDArray[np.float32], queries: NDArray[np.float32], best: NDArray[np.uint64]
    ) -> Iterator[int]:
        """Merge the bank's rows from `start` on into the best keys Q×k; yields numbers of queries done."""
        block = _Block(start, units, self.engine.index(units, self.budget.workspace))
        pending = np.arange(len(queries))
        k = best.shape[1]
        width, widest = k + OVERFETCH, self.engine.widest or 4 * k + 1000
        while len(pending) and (width := min(width, len(units))) <= widest:
            unsettled = []
            step = max(1, self.budget.candidates // width)
            for i in range(0, len(pending), step):
                rows = pending[i : i + step]
                merged, settled = self._merged(block, queries[rows], best[rows], width)
                best[rows[settled]] = merged[settled]
                unsettled.append(rows[~settled])
                yield int(settled.sum())
            pending = np.concatenate(unsettled)
            width *= 4
        if len(pending):
            self.compared_all = True
            del block  # and the copy that the engine made
            yield from all_rows.merge(
                start,
                units,
                queries,
                pending,
                best,
                candidates=self.budget.candidates,
                workspace=self.budget.workspace,
            )

    def _merged(
        self, block: _Block, queries: NDArray[np.float32], before: NDArray[np.uint64], width: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The best keys Q×k with this block, and whether no row that was not fetched can belong to them (Q)."""
        fetched, candidates = block.index.search(queries, width)
        wanted = candidates >= 0
        if not np.isfinite(fetched[wanted]).all():
            raise EngineFault(f"{self.engine.name} computed NaN or infinity")
        bounds = fetched.astype(np.float64) + self.slack
        if self.engine.exact:
            # No more than this can a row score with us; below the k that other blocks gave, it is not wanted.
            wanted &= bounds >= keys.last_similarity(before)[:, None]
        scores = _score(block.units, queries, candidates, wanted.sum(axis=1), self.pool)
        if self.engine.exact and not (np.abs(scores - fetched)[wanted] <= self.slack).all():
            raise EngineFault(f"{self.engine.name} computed a wrong similarity")
        found = np.where(wanted, keys.pack(scores, candidates + block.start), keys.NONE)
        merged = np.sort(np.concatenate([before, found], axis=1), axis=1)[:, : before.shape[1]]
        if width == len(block.units) or not self.engine.exact:
            return merged, np.ones(len(queries), dtype=np.bool_)
        # A row that was not fetched scores at most what the last one did.
        return merged, keys.last_similarity(merged) > bounds[:, -1]


def _score(
    block: NDArray[np.float32],
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    counts: NDArray[np.int64],
    pool: ThreadPoolExecutor,
) -> NDArray[np.float32]:
    """Dot products of each query (Q×D) with its first `counts` candidates (Q×M) in float64, rounded to float32: Q×M."""
    scores = np.zeros(candidates.shape, dtype=np.float32)
    piece = max(1, _PIECE_BYTES // (4 * block.shape[1]))

    def some(first: int, last: int) -> None:
        chosen = np.empty((piece, block.shape[1]), dtype=np.float32)
        exactly = np.empty(chosen.shape, dtype=np.float64)
        for i in range(first, last):
            query = queries[i].astype(np.float64)
            for j in range(0, counts[i], piece):
                wanted = candidates[i, j : min(j + piece, counts[i])]
                m = len(wanted)
                np.take(block, wanted, axis=0, out=chosen[:m], mode="clip")  # `raise` would make a copy
                np.copyto(exactly[:m], chosen[:m])
                # One dot product a row: equal rows give equal sums, wherever they lie.
                scores[i, j : j + m] = np.vecdot(exactly[:m], query)

    step = max(1, -(-len(queries) // threads()))
    for future in [pool.submit(some, i, min(i + step, len(queries))) for i in range(0, len(queries), step)]:
        future.result()
    return scores
