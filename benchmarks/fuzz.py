"""Damages valid files of every container and reads them: each is refused by one typed line, or read as what it is.

    python -m benchmarks.fuzz --cases 10000 --seed 0

Nine of ten cases are small files of every container (see `benchmarks.mutations`), read by `untrusted.load` and
`families.read`; the others are whole ResNet-18 files, damaged in place. Each worker process has a limit of memory above
what it takes for valid files, and of seconds a case. Exit code 1, with the seed and number of the case, where one
crashed, hung, ran code, raised anything but `UserError`, met the memory limit, left a file, or was read as something
else than a backbone.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.mutations import mutate, samples
from converters import families, to_detectron2, to_openmmlab, untrusted
from converters.backbone import Backbone
from converters.errors import UserError

SECONDS = 30
"""After which a case counts as hung. The slowest takes a second, on a busy machine more."""
MEGABYTES = 768
"""Of private memory, above what a worker holds idle: a ResNet-18 is read into some 150."""
WHOLE_EVERY = 10
EDGE = 1 << 16
"""Bytes at the beginning and the end of a whole file, where headers and pickles lie."""
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "shutil.rmtree", "os.remove")


@dataclass
class Result:
    """What became of a case."""

    case: int
    sample: str
    damage: str
    outcome: str
    """`accepted`, `refused`, or what went wrong."""
    reason: str
    seconds: float
    megabytes: float
    """The most resident memory that the process had so far, above what valid files had taken."""


def judge(path: Path, *, whole: bool) -> tuple[str, str]:
    """Read a file: outcome and reason. Raises what the reader raises, other than `UserError`."""
    try:
        if not whole:
            _touch(untrusted.load(path).content)
    except UserError as error:
        return _refused(error, path)
    try:
        backbone = families.read(path)
    except UserError as error:
        return ("accepted", "content") if not whole else _refused(error, path)
    if not isinstance(backbone, Backbone) or not all(
        torch.isfinite(value).all() for value in backbone.tensors.values()
    ):
        return "no backbone", str(type(backbone))
    return "accepted", "backbone"


def _refused(error: UserError, path: Path) -> tuple[str, str]:
    line = str(error)
    if any(word in line.lower() for word in ("memory", "alloc")):
        return "memory", line
    if path.name not in line or "\n" in line or len(line) > 2000:
        return "unclear", line[:300]
    return "refused", "".join("N" if letter.isdigit() else letter for letter in error.expected)[:60]


def _touch(content: Any) -> None:
    """Read every value: storages that do not lie in the file would crash here."""
    if isinstance(content, torch.Tensor):
        content.detach().double().sum().item()
    elif isinstance(content, np.ndarray):
        content.tobytes()
    elif isinstance(content, Mapping):
        for value in content.values():
            _touch(value)
    elif isinstance(content, list | tuple):
        for value in content:
            _touch(value)


class Worker:
    """Runs cases in a folder of its own.

    Args:
        folder: an empty one.
        seed: of all cases.
        whole: whether whole ResNet-18 files take their turns.
    """

    def __init__(self, folder: Path, seed: int, *, whole: bool = True) -> None:
        self._seed, self._small = seed, samples()
        self._canary = folder / "canary"
        self._place = folder / "case"
        self._place.mkdir()
        self._path = self._place / "case.pth"
        self._whole = _whole_files(folder / "whole") if whole else []
        for sample in self._small:
            self._path.write_bytes(sample.data)
            assert judge(self._path, whole=False)[0] == "accepted", sample.name
        for path in self._whole:
            assert judge(path, whole=True) == ("accepted", "backbone"), path
        self._path.unlink(missing_ok=True)
        self._idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(self, case: int) -> Result:
        """Make and judge one case."""
        chance = random.Random(f"{self._seed}:{case}")
        start = time.perf_counter()
        if self._whole and case % WHOLE_EVERY == 0:
            path = chance.choice(self._whole)
            sample, damage = path.name, _damage_in_place(path, chance)
            outcome, reason = self._judged(path, whole=True)
            damage.undo()
            damaged = damage.name
        else:
            one, other = chance.choice(self._small), chance.choice(self._small)
            sample = one.name
            damaged, data = mutate(one, other, chance, str(self._canary))
            self._path.write_bytes(data)
            outcome, reason = self._judged(self._path, whole=False)
            self._path.unlink()
        if self._canary.exists():
            outcome = "ran code"
        if left := [path.name for path in self._place.iterdir()]:
            outcome, reason = "left a file", ", ".join(left)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._idle) / 1024
        return Result(case, sample, damaged, outcome, reason, time.perf_counter() - start, memory)

    def _judged(self, path: Path, *, whole: bool) -> tuple[str, str]:
        _seen.clear()
        try:
            outcome, reason = judge(path, whole=whole)
        except Exception as error:
            outcome, reason = "another error", f"{type(error).__name__}: {error}"[:300]
        return ("ran code", ", ".join(_seen)) if _seen else (outcome, reason)


_seen: list[str] = []


def _watch(event: str, _arguments: tuple[Any, ...]) -> None:
    """Python's audit hook: what a file must not bring about."""
    if event in WATCHED:
        _seen.append(event)


@dataclass
class _Damage:
    """Bytes of a whole file that were overwritten or cut."""

    name: str
    path: Path
    at: int
    before: bytes

    def undo(self) -> None:
        """Make the file valid again."""
        with self.path.open("r+b") as file:
            file.seek(self.at)
            file.write(self.before)


def _damage_in_place(path: Path, chance: random.Random) -> _Damage:
    """Overwrite or cut a few bytes, mostly near the ends."""
    size = path.stat().st_size
    at = chance.choice([chance.randrange(EDGE), size - 1 - chance.randrange(EDGE), chance.randrange(size)])
    width = min(chance.choice([1, 1, 1, 4, 8]), size - at)
    kind = chance.choice(["flip", "number", "cut"]) if size - at <= EDGE else chance.choice(["flip", "number"])
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(size - at if kind == "cut" else width)
        file.seek(at)
        if kind == "cut":
            file.truncate()
        elif kind == "flip":
            file.write(bytes([before[0] ^ 1 << chance.randrange(8)]))
        else:
            file.write(chance.choice([b"\0", b"\xff", b"\x7f"]) * width)
    return _Damage(f"{kind} in the whole file", path, at, before)


def _whole_files(folder: Path) -> list[Path]:
    """A ResNet-18 in every container; in torch's own, whose tensors share one storage, it is small."""
    folder.mkdir()
    backbone = families.random_backbone("resnet18", 0)
    backbone.save(folder / "backbone.safetensors")
    to_detectron2.write_weights(backbone, folder / "detectron2.pkl")
    to_openmmlab.write_weights(backbone, folder / "openmmlab.pth")
    ones = torch.ones(max(value.numel() for value in backbone.tensors.values()))
    shared = {
        f"module.encoder_q.{name}": ones[: value.numel()].view(value.shape) if value.is_floating_point() else value
        for name, value in backbone.tensors.items()
    }
    for name, new in (("moco.pth.tar", True), ("moco_old.pth.tar", False)):
        torch.save({"state_dict": shared}, folder / name, _use_new_zipfile_serialization=new)
    return sorted(folder.iterdir())


# The processes


@dataclass
class Summary:
    """All cases together."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: list[Result] = field(default_factory=list)
    slowest: Result | None = None
    megabytes: float = 0.0

    def add(self, result: Result) -> None:
        """Count a case."""
        self.cases += 1
        self.outcomes[result.outcome] += 1
        if result.outcome == "refused":
            self.refusals[result.reason] += 1
        elif result.outcome != "accepted":
            self.failures.append(result)
        if self.slowest is None or result.seconds > self.slowest.seconds:
            self.slowest = result
        self.megabytes = max(self.megabytes, result.megabytes)


def _work(seed: int, first: int, step: int, cases: int) -> None:
    """What a worker process does: a line of JSON a case."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    sys.addaudithook(_watch)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder), seed)
        private = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (private + (MEGABYTES << 20),) * 2)
        for case in range(first, cases, step):
            print(json.dumps({"begin": case}), flush=True)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            result = worker.run(case)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(vars(result)), flush=True)


def _results(seed: int, first: int, step: int, cases: int) -> Iterator[Result]:
    """The results of one worker, which is started anew behind a case that ended it."""
    while first < cases:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--seed", str(seed), "--cases", str(cases)]
        command += ["--worker", str(first), str(step)]
        with tempfile.TemporaryFile("w+") as told:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=told, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            begun = None
            assert process.stdout is not None
            for line in process.stdout:
                row = json.loads(line)
                begun = row.get("begin")
                if begun is None:
                    yield Result(**row)
            code = process.wait()
            told.seek(0)
            last = told.read()[-300:]
        if code == 0:
            return
        if begun is None:
            raise RuntimeError(f"a worker ended with {code} before its first case: {last}")
        yield Result(begun, "", "", "hung" if "Timeout" in last else f"crashed ({code})", last, 0.0, 0.0)
        first = begun + step


def run(cases: int, seed: int, workers: int) -> Summary:
    """All cases, in processes side by side."""
    summary = Summary()
    streams = [_results(seed, number, workers, cases) for number in range(workers)]
    while streams:
        for stream in list(streams):
            result = next(stream, None)
            if result is None:
                streams.remove(stream)
            else:
                summary.add(result)
                if summary.cases % 1000 == 0:
                    print(f"{summary.cases} cases, {len(summary.failures)} failures", flush=True)
    return summary


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(args.seed, *args.worker, args.cases)
        return 0
    start = time.perf_counter()
    summary = run(args.cases, args.seed, args.workers)
    print(f"{summary.cases} cases, seed {args.seed}, {time.perf_counter() - start:.0f} s: {dict(summary.outcomes)}")
    for reason, count in summary.refusals.most_common():
        print(f"  {count:6}  expected {reason}")
    print(f"slowest: {summary.slowest}")
    print(f"most memory above that of reading valid files: {summary.megabytes:.0f} MB")
    for failure in summary.failures[:50]:
        print(f"FAILED: seed {args.seed}, {failure}")
    return 1 if summary.failures or summary.cases != args.cases else 0


if __name__ == "__main__":
    sys.exit(main())
