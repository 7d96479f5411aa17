"""`--family`, `--encoder` and `--prefix`: how a checkpoint is read, on every command line that reads one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converters.families import Reading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("how to read a checkpoint", "default: told from its keys and shapes")
    group.add_argument("--family", help="the layout, as moco or detectron2-bgr (docs/formats.md lists them)")
    group.add_argument(
        "--encoder",
        choices=("q", "k"),
        help="of two encoders: q, the trained one (query, online, student), or k, the averaged one (key, teacher)",
    )
    group.add_argument(
        "--prefix", help="what the encoder's names begin with, as module.pre. ; whatever is elsewhere is left out"
    )


def of(args: argparse.Namespace) -> Reading:
    """What they say."""
    from converters.families import Reading

    return Reading(family=args.family, encoder=args.encoder, prefix=args.prefix)
