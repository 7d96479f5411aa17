"""`moco-transfer inspect`."""

from __future__ import annotations

import argparse

from transfer import reading

HELP = "say what a file is: checkpoint, backbone, weights for a framework, certificate"
EXAMPLE = "moco-transfer inspect moco_v2_200ep_pretrain.pth.tar"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="any checkpoint, or a file that this toolkit wrote")
    reading.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from converters.inspection import inspect

    found = inspect(args.file, reading.of(args))
    print(found.model_dump_json(indent=2) if args.json else "\n".join(found.lines()))
    return 0
