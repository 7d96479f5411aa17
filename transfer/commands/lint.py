"""`moco-transfer lint`."""

from __future__ import annotations

import argparse
from pathlib import Path

from transfer import reading

HELP = "name the traps in a detectron2 or OpenMMLab configuration that would spoil a transfer number"
EXAMPLE = (
    "moco-transfer lint pascal_voc_R_50_C4_24k_moco.yaml --backbone moco_v2.pkl\n"
    "  moco-transfer lint fcn_r50-d8_4xb2-40k_cityscapes-769x769.py --backbone moco_v2.pth --gpus 1 --fix"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="a detectron2 .yaml, or a .py of mmseg, mmdet or mmpretrain"
    )
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="B",
        help="what it is for: a checkpoint, backbone or weights, or random:ARCH",
    )
    reading.add_arguments(parser)
    parser.add_argument("--gpus", type=int, metavar="N", help="how many GPUs will train; 0: a CPU (default: several)")
    parser.add_argument("--fix", action="store_true", help="write NAME.fixed.yaml or NAME.fixed.py beside the file")
    parser.add_argument("--force", action="store_true", help="replace a fixed file that exists")
    parser.add_argument("--strict", action="store_true", help="exit 1 for warnings too")
    parser.add_argument(
        "--execute", action="store_true", help="run a Python configuration as code: only for a file that you trust"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it. Returns 1 where something would spoil the number, and what `--fix` left of it."""
    from converters.errors import UserError
    from converters.families import read_source
    from converters.lint import lint
    from converters.lint.fix import fixed_path, write_fixed

    if args.gpus is not None and args.gpus < 0:
        raise UserError(expected="a number of GPUs, or 0 for a CPU", found=str(args.gpus), where="--gpus")
    if args.fix:
        fixed_path(args.config, force=args.force)
    metadata = read_source(args.backbone, reading.of(args)).metadata
    source = Path(args.backbone) if Path(args.backbone).is_file() else None
    report = lint(args.config, metadata, gpus=args.gpus, execute=args.execute, source=source)
    if not args.json:
        print("\n".join(report.lines()))
    if args.fix and any(finding.changes for finding in report.findings):
        fixed = write_fixed(args.config, report, execute=args.execute, force=args.force)
        report = lint(fixed, metadata, gpus=args.gpus, execute=args.execute, source=source)
        if not args.json:
            print(f"\nwrote {fixed}", *report.lines(), sep="\n")
    elif args.fix and not args.json:
        print("nothing that --fix could change")
    if args.json:
        print(report.model_dump_json(indent=2))
    return 1 if report.errors or (args.strict and report.findings) else 0
