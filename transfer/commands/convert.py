"""`moco-transfer convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn a checkpoint into weights, configuration fragment and certificate for a framework"
EXAMPLE = (
    "moco-transfer convert moco_v2_200ep_pretrain.pth.tar --to detectron2 -o moco_v2.pkl\n"
    "  moco-transfer convert random:resnet50:0 --to mmseg -o random.pth"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint or backbone file, or random:ARCH[:SEED]")
    parser.add_argument("--to", required=True, choices=("backbone", "detectron2", "mmseg"), help="for whom")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="the weights: .safetensors, .pkl or .pth; fragment and certificate get its name",
    )
    parser.add_argument("--family", help="how to read the source (default: told from its keys)")
    parser.add_argument(
        "--head",
        choices=("c4", "fpn"),
        help="detectron2 only: the detector of the fragment (default: c4 for bottleneck ResNets, else fpn)",
    )
    parser.add_argument("--force", action="store_true", help="replace output files that exist")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from converters import conversion
    from converters.errors import UserError
    from converters.families import read_source
    from converters.inspection import about_certificate
    from converters.to_detectron2 import Head

    if args.head is not None and args.to != "detectron2":
        raise UserError(expected="--head with --to detectron2 only", found=f"--to {args.to}", where="--head")
    files = conversion.outputs(args.to, args.output)
    files.check_free(force=args.force)
    backbone = read_source(args.source, args.family)
    heads: dict[str | None, Head | None] = {None: None, "c4": "C4", "fpn": "FPN"}
    paper = conversion.convert(backbone, args.to, args.output, head=heads[args.head], force=args.force)
    rows = [*about_certificate(paper)]
    rows += [("wrote", str(path)) for path in (files.weights, files.fragment, files.certificate) if path is not None]
    for label, value in rows:
        print(f"{label:<11}  {value}")
    return 0
