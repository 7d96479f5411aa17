"""`moco-transfer verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "repeat the proof of a conversion on its files as they are now; exit code 1 if one bit has changed"
EXAMPLE = "moco-transfer verify moco_v2.pkl\n  moco-transfer verify moco_v2.pkl --source moco_v2_200ep_pretrain.pth.tar"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="weights that `convert` wrote, or their certificate")
    parser.add_argument("--source", type=Path, help="the checkpoint that they were made from, to check its hash too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from converters.inspection import about_certificate
    from converters.verify import verify

    seen = verify(args.file, args.source)
    if args.json:
        print(seen.model_dump_json(indent=2))
        return 0
    rows = [*about_certificate(seen.repeated), *(("note", note) for note in seen.notes)]
    rows.append(("verified", f"{args.file} and its fragment are those of the certificate"))
    for label, value in rows:
        print(f"{label:<11}  {value}")
    return 0
