"""`moco-transfer convert`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from transfer import reading

if TYPE_CHECKING:
    from converters.backbone import Backbone
    from converters.batch import Task
    from converters.to_detectron2 import Head

HELP = "turn a checkpoint into weights, configuration fragment and certificate for a framework"
EXAMPLE = (
    "moco-transfer convert moco_v2_200ep_pretrain.pth.tar --to detectron2 -o moco_v2.pkl\n"
    "  moco-transfer convert random:resnet50:0 --to mmseg -o random.pth\n"
    "  moco-transfer convert *.pth.tar --to detectron2 --to mmseg -o converted/"
)

TARGETS = ("backbone", "torchvision", "timm", "detectron2", "mmseg", "mmdet", "mmpretrain")
"""`converters.certificate.Target`, written out: a command's `--help` imports nothing heavy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a checkpoint or backbone file, or random:ARCH[:SEED]; of several, one that fails does not stop the rest",
    )
    parser.add_argument(
        "--to",
        required=True,
        action="append",
        choices=TARGETS,
        help="for whom; give it again for more",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE|FOLDER",
        help="the weights: .safetensors (backbone, timm), .pkl (detectron2), .pth; the other files get its name; "
        "or a folder (which exists, or with / at its end) whose files get the names of their sources",
    )
    reading.add_arguments(parser)
    parser.add_argument(
        "--head",
        choices=("c4", "fpn"),
        help="detectron2 only: the detector of the fragment (default: c4 for bottleneck ResNets, else fpn)",
    )
    parser.add_argument("--force", action="store_true", help="replace output files that exist")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from converters import batch
    from converters.errors import UserError
    from converters.families import read_source
    from converters.inspection import about_certificate

    targets = list(dict.fromkeys(args.to))
    if args.head is not None and "detectron2" not in targets:
        found = f"--to {' '.join(targets)}"
        raise UserError(expected="--head with --to detectron2 only", found=found, where="--head")
    heads: dict[str | None, Head | None] = {None: None, "c4": "C4", "fpn": "FPN"}
    folder = args.output.endswith("/") or Path(args.output).is_dir()
    tasks = batch.plan(args.source, targets, Path(args.output), folder=folder)

    how = reading.of(args)

    def read(source: str) -> Backbone:
        return read_source(source, how)

    if len(tasks) > 1:
        return _many(tasks, read, head=heads[args.head], force=args.force)
    papers = batch.convert_one(tasks[0], read, head=heads[args.head], force=args.force)
    for paper, (_, files) in zip(papers, tasks[0].outputs, strict=True):
        rows = [*about_certificate(paper)]
        written = (files.weights, files.head, files.fragment, files.certificate)
        rows += [("wrote", str(path)) for path in written if path is not None and path.exists()]
        for label, value in rows:
            print(f"{label:<11}  {value}")
    return 0


def _many(tasks: list[Task], read: Callable[[str], Backbone], *, head: Head | None, force: bool) -> int:
    """One line for each source; 1 if any failed."""
    from converters import batch
    from converters.progress import Progress

    failed = 0
    with Progress("convert", len(tasks), "files") as progress:
        for done in batch.convert(tasks, read, head=head, force=force):
            progress.clear()
            if done.failure:
                failed += 1
                where = "" if done.failure.startswith(done.task.source) else f"{done.task.source}: "
                print(f"moco-transfer: {where}{done.failure}", file=sys.stderr)
            for paper, (target, files) in zip(done.papers, done.task.outputs, strict=False):
                print(f"{files.weights}  {target}  {paper.fingerprint[:12]}  {paper.verdict}", flush=True)
            progress.step(failed=str(failed))
    print(f"{len(tasks) - failed} of {len(tasks)} converted" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0
