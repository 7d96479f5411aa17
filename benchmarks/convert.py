"""Conversion with all proofs beside a plain load, rename and save: `python -m benchmarks.convert`.

A MoCo v2 checkpoint of ResNet-50 with its optimizer, as the reference writes it, goes to detectron2 and mmsegmentation.
Each side runs in processes of its own that import first and measure then: wall time, and the peak of resident memory
above what the imports left. The sides alternate; the median of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from converters import architectures

FORMATS = {"zip": True, "before 1.6": False}
"""A container of torch.save -> whether it is the zip format of torch 1.6 and later."""


def write_checkpoint(path: Path, *, zipped: bool) -> None:
    """The reference's layout (facebookresearch/moco@7397dfe, main_moco.py): two encoders with heads, queue, momenta."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    momenta: dict[int, Any] = {}
    for which in ("encoder_q", "encoder_k"):
        model: Any = architectures.build("resnet50", 128)
        model.fc = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.ReLU(), model.fc)
        state |= {f"module.{which}.{name}": value for name, value in model.state_dict().items()}
        if not momenta:
            momenta = {
                i: {"momentum_buffer": torch.randn_like(parameter)} for i, parameter in enumerate(model.parameters())
            }
    state["module.queue"] = torch.nn.functional.normalize(torch.randn(128, 65536), dim=0)
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.long)
    optimizer = {"state": momenta, "param_groups": [{"lr": 0.03, "momentum": 0.9, "params": list(momenta)}]}
    content = {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def plain(source: Path, folder: Path) -> None:
    """What a script does: load everything, rename, save for both; nothing is checked."""
    state = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "module.encoder_q."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and ".fc." not in k}
    theirs = {}
    for name, value in state.items():
        renamed = name if "layer" in name else "stem." + name
        for stage in (1, 2, 3, 4):
            renamed = renamed.replace(f"layer{stage}", f"res{stage + 1}")
        for norm in (1, 2, 3):
            renamed = renamed.replace(f"bn{norm}", f"conv{norm}.norm")
        renamed = renamed.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        theirs[renamed] = value.numpy()
    with (folder / "plain.pkl").open("wb") as file:
        pickle.dump({"model": theirs, "__author__": "MOCO", "matching_heuristics": True}, file)
    torch.save({"state_dict": state, "meta": {}}, folder / "plain.pth")


def proved(source: Path, folder: Path) -> None:
    """`moco-transfer convert SOURCE --to detectron2 --to mmseg -o FOLDER/`."""
    from converters import batch
    from converters.families import read_source

    (task,) = batch.plan([str(source)], ["detectron2", "mmseg"], folder, folder=True)
    papers = list(batch.convert_one(task, read_source, force=True))
    assert [paper.verdict for paper in papers] == ["proved", "proved"]
    assert [paper.coverage.loaded for paper in papers] == [318, 318]


def frameworks() -> None:
    """The imports of `proved`."""
    from converters import batch, detectron2_model, mmseg_model, parity  # noqa: F401

    parity.picture()


SIDES: dict[str, tuple[Callable[[], None], Callable[[Path, Path], None]]] = {
    "plain": (lambda: None, plain),
    "proved": (frameworks, proved),
}


def _memory(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


def measure(side: str, source: Path, folder: Path) -> dict[str, float]:
    """In this process: seconds, and bytes of memory above the imports'."""
    imports, work = SIDES[side]
    imports()
    source.read_bytes()  # into the system's cache, for both sides alike
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    began = time.perf_counter()
    work(source, folder)
    return {"seconds": time.perf_counter() - began, "bytes": _memory("VmHWM") - before}


def in_process(side: str, source: Path, folder: Path) -> dict[str, float]:
    """`measure` in a new process, and the wall time of the whole process."""
    command = [sys.executable, "-m", "benchmarks.convert", "--measure", side, str(source), str(folder)]
    began = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1]) | {"process": time.perf_counter() - began}


def compare(source: Path, folder: Path, rounds: int) -> None:
    """Print one format's table."""
    size = source.stat().st_size
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, found in seen.items():
            found.append(in_process(side, source, folder))
    median = {
        side: {key: statistics.median(one[key] for one in found) for key in found[0]} for side, found in seen.items()
    }
    for side, row in median.items():
        ratio = row["seconds"] / median["plain"]["seconds"]
        print(
            f"  {side:<7} {row['seconds']:6.2f} s ({ratio:.2f}×)   peak {row['bytes'] / 1e6:6.0f} MB "
            f"({row['bytes'] / size:.2f}× the file)   whole process {row['process']:.1f} s"
        )


def many(source: Path, folder: Path, count: int) -> None:
    """`count` names of one checkpoint through one call of the command."""
    names = []
    for number in range(count):
        name = folder / f"c{number:03d}.pth.tar"
        name.symlink_to(source)
        names.append(str(name))
    command = [sys.executable, "-m", "transfer", "convert", *names, "--to", "detectron2", "-o", f"{folder}/out/"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    print(
        f"{count} checkpoints in one call: {seconds:.0f} s, {seconds / count:.2f} s each, "
        f"peak of the process {usage.ru_maxrss / 1e3:.0f} MB, exit code {os.waitstatus_to_exitcode(status)}"
    )
    shutil.rmtree(folder / "out")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=0, metavar="N", help="also convert N checkpoints in one call")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        side, source, folder = args.measure
        print(json.dumps(measure(side, Path(source), Path(folder))))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        for label, zipped in FORMATS.items():
            source = Path(name) / f"{'zip' if zipped else 'old'}.pth.tar"
            write_checkpoint(source, zipped=zipped)
            print(f"torch.save's format {label}, {source.stat().st_size / 1e6:.0f} MB:")
            compare(source, Path(name), args.rounds)
        if args.many:
            many(Path(name) / "zip.pth.tar", Path(name), args.many)


if __name__ == "__main__":
    main()
