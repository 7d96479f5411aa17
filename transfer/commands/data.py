"""`moco-transfer data`: data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.command import seed

HELP = "make data sets: sample data of real photographs, in four layouts"
EXAMPLE = "moco-transfer data sample sample-data --size small --seed 0"

_SAMPLE = "generate sample data: image folder, VOC, COCO and Cityscapes layouts of one generation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    sample = actions.add_parser(
        "sample",
        help=_SAMPLE,
        description=f"{_SAMPLE}. Numbers made on it say nothing about real benchmarks.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sample.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    sample.add_argument(
        "--size",
        choices=("tiny", "small", "large"),
        default="small",
        help="tiny: for tests; small: the quickstart's (4,940 crops, 520 scenes); large: ten times that "
        "(default: %(default)s)",
    )
    sample.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="same seed, same bytes (default: %(default)s)"
    )
    sample.add_argument("--force", action="store_true", help="replace OUT if it is sample data")
    sample.set_defaults(action=_sample)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    code: int = args.action(args)
    return code


def _sample(args: argparse.Namespace) -> int:
    from transfer.sample.generate import SIZES, generate

    size = SIZES[args.size]
    generate(args.out, size, args.seed, force=args.force)
    classes = 19
    print(f"{args.out}: sample data, size {args.size}, seed {args.seed}")
    print(f"  images/      image folder: {classes * size.crops_train} train, {classes * size.crops_val} val")
    print(f"  voc/ coco/ cityscapes/   {size.scenes_train} train, {size.scenes_val} val scenes")
    print("  Numbers made on it say nothing about real benchmarks (SAMPLE_DATA.json).")
    return 0
