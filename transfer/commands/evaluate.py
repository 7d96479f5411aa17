"""`moco-transfer evaluate`: one protocol on one backbone; the number lands as a record in a run's folder."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from converters.command import seed

HELP = "evaluate a backbone under one protocol"
EXAMPLE = "moco-transfer evaluate knn-dino@1 --backbone moco.safetensors --data /data/imagenet -o runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("protocol", nargs="?", help="id of a protocol; see --list")
    parser.add_argument("--list", action="store_true", help="list the protocols and stop")
    parser.add_argument(
        "--backbone", metavar="SOURCE", help="a backbone file, a checkpoint that `inspect` knows, or random:ARCH[:SEED]"
    )
    parser.add_argument("--data", type=Path, help="root folder of the data set")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/evaluate"), help="the run's folder (%(default)s)")
    parser.add_argument("--name", help="row name in tables (default: the backbone's file name)")
    parser.add_argument("--data-name", help="name of the data set in tables (default: the folder's name)")
    parser.add_argument("--seed", type=seed, default=0, help="trial seed (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes that share the work, one a GPU (%(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the protocol"
    )
    parser.add_argument("--force", action="store_true", help="do it again although the record exists")


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the record.

    Raises:
        UserError: for wrong input.
        CheckFailed: if a proof does not hold.
    """
    from evaluators.protocol import find
    from evaluators.protocols import CATALOGUE

    if args.list:
        width = max(len(id_) for id_ in CATALOGUE)
        for protocol in CATALOGUE.values():
            print(f"{protocol.id:{width}}  {protocol.title}: {protocol.definition}")
        return 0

    from converters.errors import UserError

    for option in ("protocol", "backbone", "data"):
        if getattr(args, option) is None:
            name = "PROTOCOL" if option == "protocol" else f"--{option}"
            raise UserError(expected=name, found="none", where="evaluate", cure=f"for example: {EXAMPLE}")
    protocol = find(args.protocol, CATALOGUE).overridden(tuple(args.set))
    if not args.data.is_dir():
        raise UserError(expected="the data set's root folder", found="none", where=args.data)

    from pretrain import launch

    if args.processes != 1 and not launch.is_worker():
        # The same words: a worker knows that it is one, and starts no others.
        command = [sys.executable, "-m", "transfer.commands.evaluate", *args.words[1:]]
        return launch.launch(command, args.processes, program="moco-transfer")

    # Torch from here on: a typo above is answered at once.
    from transfer.cell import evaluate_cell

    record, path = evaluate_cell(
        protocol,
        args.backbone,
        args.data,
        run=args.out,
        row=args.name or Path(args.backbone).name.removesuffix(".safetensors"),
        data_name=args.data_name or args.data.resolve().name,
        seed=args.seed,
        device=args.device,
        force=args.force,
        command=shlex.join(["moco-transfer", *args.words]),
    )
    if launch.launched_rank():
        return 0
    for metric in record.metrics:
        print(f"{metric.name:16} {metric.value:7.2f} {metric.unit}  (n = {metric.n})")
    for note in record.notes:
        print(f"note: {note}")
    print(f"record: {path}")
    return 0


def _worker() -> int:
    """One process of a group, started by `run`."""
    from converters.command import exit_code
    from converters.errors import UserError
    from pretrain import launch
    from reports.errors import ReportError

    launch.begin_worker()
    parser = argparse.ArgumentParser(prog="moco-transfer evaluate")
    add_arguments(parser)
    args = parser.parse_args(sys.argv[1:], argparse.Namespace(words=["evaluate", *sys.argv[1:]]))
    return exit_code("moco-transfer", lambda: launch.tell_once(lambda: run(args)), (UserError, ReportError))


if __name__ == "__main__":
    sys.exit(_worker())
