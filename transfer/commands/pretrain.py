"""`moco-transfer pretrain`: the command of `python -m pretrain`, and a look at kNN accuracy while it goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import UserError
from pretrain import __main__ as command
from pretrain.__main__ import EXAMPLE, HELP

if TYPE_CHECKING:
    from pretrain.recipes import Recipe
    from pretrain.train import Monitor

__all__ = ["EXAMPLE", "HELP", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.add_arguments(parser)
    group = parser.add_argument_group("kNN monitor")
    group.add_argument(
        "--knn-every", type=int, metavar="E", help="every E epochs, show the kNN accuracy of the encoder"
    )
    group.add_argument(
        "--knn-data", type=Path, metavar="DIR", help="labelled images, train/ and val/ (default: those of --data)"
    )
    group.add_argument(
        "--knn-protocol",
        metavar="ID",
        help="of evaluate --list (default: quickstart-knn@1 for sample data, or knn-dino@1)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, with the monitor that is asked for."""
    return command.run(args, monitor=_monitor, module="transfer.commands.pretrain")


def _monitor(args: argparse.Namespace, recipe: Recipe) -> Monitor | None:
    if args.knn_every is None:
        for name in ("knn_data", "knn_protocol"):
            if getattr(args, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UserError(expected=f"--knn-every beside {option}", found="none", cure="add --knn-every 10")
        return None
    if args.knn_every < 1:
        raise UserError(expected="a number of epochs above 0", found=str(args.knn_every), where="--knn-every")
    from converters.dataset_fingerprint import is_sample
    from transfer.monitor import KnnMonitor

    data = args.knn_data or Path(args.data)
    protocol = args.knn_protocol or ("quickstart-knn@1" if is_sample(data) else "knn-dino@1")
    try:
        return KnnMonitor(data, protocol, every=args.knn_every, epochs=recipe.epochs)
    except UserError as error:
        if args.knn_data is not None:
            raise
        cure = "name labelled images, with train/ and val/, as --knn-data DIR"
        raise UserError(expected=error.expected, found=error.found, where=error.where, cure=cure) from None


if __name__ == "__main__":
    sys.exit(command.main(declare=add_arguments, act=run))
