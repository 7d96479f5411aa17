"""kNN side by side with one search per k and a one-hot vote, and the memory of a search larger than memory.

    python -m benchmarks.neighbours                      # (a) all k and T of five protocols, same features and data
    python -m benchmarks.neighbours --memory             # (d) ImageNet's shapes: a slice measured, the rest computed

(a) The other side is the arithmetic of facebookresearch/dino@7c446df eval_knn.py, written anew: for each k and T a full
search in chunks of a hundredth of the queries, and votes by one-hot vectors of all classes. A majority vote is the same
with weights of one; its ties, which are many, the two sides break in different ways. Both sides run in turns in one
process on the same threads. The features are non-negative, as pooled features are, and make classes that overlap.

(d) The bank is generated as it is read, so it needs no disk; what it costs to generate is measured and taken off.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from converters.child import answer
from evaluators.features.compute import Features
from evaluators.knn.neighbours import find_neighbours
from evaluators.knn.search import MEMORY, Budget, nearest
from evaluators.knn.task import ballots_of
from evaluators.knn.vote import Ballot, rank_classes
from evaluators.predictions import accuracy
from evaluators.protocols import CATALOGUE
from evaluators.settings.knn import KnnSettings

PROTOCOLS = ("knn-instdisc@1", "knn-dino@1", "knn-simsiam@1", "knn-moco-colab@1", "knn-msf@1")


def made_features(rows: int, dim: int, classes: int, *, seed: int, noise: float = 2.0) -> Features:
    """Rows around the centres of their classes, cut off at zero; the centres are those of all seeds."""
    centres = np.random.default_rng(99).standard_normal((classes, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    values = np.empty((rows, dim), dtype=np.float32)
    for start in range(0, rows, 4096):
        part = slice(start, start + 4096)
        spread = rng.standard_normal((len(labels[part]), dim), dtype=np.float32)
        values[part] = np.maximum(centres[labels[part]] + noise * spread, 0)
    return Features(values, labels)


def ballots() -> list[Ballot]:
    """All k, T and votes of the five protocols."""
    found: list[Ballot] = []
    for id_ in PROTOCOLS:
        settings = CATALOGUE[id_].settings
        assert isinstance(settings, KnnSettings)
        found += ballots_of(settings)
    return found


@dataclass(frozen=True)
class Scores:
    """Accuracies of one ballot, percent."""

    top1: float
    top5: float


def ours(bank: Features, queries: Features, classes: int, wanted: Sequence[Ballot]) -> list[Scores]:
    """One search, all votes."""
    settings = KnnSettings(k=tuple({ballot.k for ballot in wanted}), resize=1, crop=1, interpolation="bilinear")
    cpu = torch.device("cpu")
    near = find_neighbours(bank, queries.values, settings, num_classes=classes, device=cpu)
    ranked = rank_classes(near.similarities, near.labels, wanted)
    return [Scores(accuracy(found, queries.labels, 1), accuracy(found, queries.labels, 5)) for found in ranked]


def one_hot_votes(bank: Features, queries: Features, classes: int, wanted: Sequence[Ballot]) -> list[Scores]:
    """A search and a one-hot vote a ballot; normalised once, as the script does."""
    train, test = (normalize(torch.from_numpy(features.values), dim=1) for features in (bank, queries))
    labels, targets = torch.from_numpy(bank.labels), torch.from_numpy(queries.labels)
    step = max(1, len(test) // 100)
    found = []
    with torch.inference_mode():
        for ballot in wanted:
            right = {1: 0, 5: 0}
            buffer = torch.empty(step * ballot.k, classes)
            for start in range(0, len(test), step):
                part = slice(start, start + step)
                cosines, rows = (test[part] @ train.T).topk(ballot.k)
                hot = buffer[: rows.numel()].zero_().scatter_(1, labels[rows].reshape(-1, 1), 1)
                weights = (
                    (cosines / ballot.temperature).exp() if ballot.rule == "weighted" else torch.ones_like(cosines)
                )
                votes = (hot.view(*rows.shape, classes) * weights[:, :, None]).sum(dim=1)
                hits = votes.sort(dim=1, descending=True).indices == targets[part, None]
                for top in right:
                    right[top] += int(hits[:, : min(top, ballot.k)].sum())
            found.append(Scores(*(100.0 * count / len(test) for count in right.values())))
    return found


def side_by_side(rows: int, count: int, dim: int, classes: int, rounds: int) -> dict[str, Any]:
    """Times in turns, the largest deviation of an accuracy, and the accuracies of both."""
    bank, queries = (made_features(n, dim, classes, seed=seed) for seed, n in enumerate((rows, count)))
    wanted = ballots()
    sides: dict[str, Callable[[], list[Scores]]] = {
        "ours": lambda: ours(bank, queries, classes, wanted),
        "a search and one-hot votes for each k": lambda: one_hot_votes(bank, queries, classes, wanted),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[Scores]] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            begin = time.perf_counter()
            found[name] = side()
            seconds[name].append(time.perf_counter() - begin)
    mine, theirs = sides
    return {
        "N": rows,
        "Q": count,
        "D": dim,
        "C": classes,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
        "times faster": round(statistics.median(seconds[theirs]) / statistics.median(seconds[mine]), 2),
        "accuracies": [
            {"ballot": asdict(ballot), "ours": asdict(one), "one-hot": asdict(other)}
            for ballot, one, other in zip(wanted, found[mine], found[theirs], strict=True)
        ],
    }


class Generated:
    """An N×D array that makes its rows as they are read: as a memory-mapped file that takes no disk.

    A row is a piece of one long random vector, from a place of its own; equal rows do not occur below 2^20 places.
    """

    def __init__(self, rows: int, dim: int, seed: int) -> None:
        self.shape = (rows, dim)
        self._noise = np.random.default_rng(seed).standard_normal((1 << 20) + dim, dtype=np.float32)
        self._places = np.random.default_rng(seed + 1).integers(0, 1 << 20, rows)
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        begin = time.perf_counter()
        pieces = np.lib.stride_tricks.sliding_window_view(self._noise, self.shape[1])
        made: NDArray[np.float32] = pieces[self._places[rows]]
        self.seconds += time.perf_counter() - begin
        return made


def peak() -> int:
    """The largest resident set of this process so far, bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123 - a file of the kernel's
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def larger_than_memory(rows: int, dim: int, k: int, *, count: int, measured: int, memory: int) -> dict[str, Any]:
    """Two slices of a search of `rows` by `count` queries: the whole bank by few of them, a little of it by all.

    A search holds a block of the bank, a chunk of the queries and their candidates at a time. The first slice fills the
    block, the second the chunk and the candidates; each peak is compared with the setting. Besides it there is the
    result, 20 bytes a query and neighbour: its keys, then similarities and indices.
    """
    bank, queries = Generated(rows, dim, 0), Generated(count, dim, 5)
    nearest(bank[:2000], queries[:2], k, memory=memory)  # what is imported and allocated once
    before, slices = peak(), {}
    few = min(rows, 4000)
    for name, n, q in (("one query", rows, 1), ("whole bank", rows, measured), ("all queries", few, count)):
        some_bank, some_queries = Generated(n, dim, 0), Generated(q, dim, 5)
        begin = time.perf_counter()
        similarities, _ = nearest(some_bank, some_queries, k, memory=memory, label=name)  # type: ignore[arg-type]  # as arrays
        seconds = time.perf_counter() - begin
        assert (np.diff(similarities, axis=1) <= 0).all()
        slices[name] = {
            "N": n,
            "Q": q,
            "seconds": round(seconds - some_bank.seconds - some_queries.seconds, 2),
            "peak so far over the start, GiB": round((peak() - before) / (1 << 30), 3),
            "result, GiB": round(20 * k * q / (1 << 30), 3),
        }
    once = slices["one query"]["seconds"]  # the bank is normalised anew for every chunk of queries
    each = (slices["whole bank"]["seconds"] - once) / max(1, measured - 1)
    chunks = math.ceil(count / Budget.of(memory, dim, k, exact=True).chunk)
    return {
        "N": rows,
        "Q": count,
        "D": dim,
        "k": k,
        "setting, GiB": memory / (1 << 30),
        "at the start, GiB": round(before / (1 << 30), 3),
        "measured": slices,
        "hours of all, computed": round((once * chunks + each * count) / 3600, 2),
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=int, help="N (default: 20,000; with --memory 1,281,167)")
    parser.add_argument("--queries", type=int, help="Q (default: 2,000; with --memory 50,000)")
    parser.add_argument("--dim", type=int, default=2048, help="D (%(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="C (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (%(default)s)")
    parser.add_argument("--memory", action="store_true", help="measure (d)")
    parser.add_argument("--measured", type=int, default=500, help="queries that are really searched (%(default)s)")
    parser.add_argument("--gib", type=float, default=MEMORY / (1 << 30), help="the search's memory (%(default)s)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.memory:
        result = side_by_side(args.bank or 20_000, args.queries or 2000, args.dim, args.classes, args.rounds)
    elif args.child:
        rows, count, memory = args.bank or 1_281_167, args.queries or 50_000, int(args.gib * (1 << 30))
        result = larger_than_memory(rows, args.dim, 200, count=count, measured=args.measured, memory=memory)
        print(json.dumps(result))
        return
    else:  # in a child, whose peak is its own
        child = [sys.executable, "-m", "benchmarks.neighbours", *sys.argv[1:], "--child"]
        result, became = answer(child, patience=24 * 3600)
        if became is not None:
            raise SystemExit(f"the measuring process {became}")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
