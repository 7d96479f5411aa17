"""`moco-transfer data`: data sets."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from converters.command import seed

HELP = "make data sets (sample data of real photographs, tar shards of your own images), or verify them"
EXAMPLE = "moco-transfer data sample sample-data --size small --seed 0"

_SAMPLE = "generate sample data: image folder, VOC, COCO and Cityscapes layouts of one generation"
_PACK_EXAMPLE = "moco-transfer data pack imagenet/train imagenet-256 --size 256"
_VERIFY_EXAMPLE = "moco-transfer data verify imagenet /data/imagenet --sample 1000"
_VERIFY = "hold a data set on disk against what it should be: counts, and a sample of images decoded"
_PACK = "pack images into WebDataset tar shards for pretraining, scaled down"


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
    sample.add_argument("out", type=_new_folder, metavar="OUT", help="the folder to make")
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
    _add_pack(actions)
    _add_verify(actions)


def _add_pack(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pack = actions.add_parser(
        "pack",
        help=_PACK,
        description=f"{_PACK}. An image that is small already is stored byte for byte.",
        epilog=f"example:\n  {_PACK_EXAMPLE}\n  moco-transfer pretrain moco-v2@1 --data imagenet-256 -o runs/moco-v2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pack.add_argument(
        "source", metavar="SRC", help="a folder of images (its train/ where there is one), or a list of files"
    )
    pack.add_argument("out", type=_new_folder, metavar="OUT", help="the folder to make")
    pack.add_argument(
        "--size", type=_above_zero, default=256, help="longest shorter side, pixels (default: %(default)s)"
    )
    pack.add_argument("--shard-images", type=_above_zero, default=10_000, metavar="N", help="(default: %(default)s)")
    pack.add_argument(
        "--quality", type=_quality, default=90, help="of JPEGs that are encoded anew, 1 to 95 (default: %(default)s)"
    )
    pack.add_argument(
        "--max-damaged",
        type=_share,
        default=0.001,
        metavar="SHARE",
        help="a damaged image is left out and listed; more than this share of them is an error (default: %(default)s)",
    )
    pack.add_argument("--jobs", type=_above_zero, metavar="N", help="processes (default: one a core)")
    pack.add_argument("--force", action="store_true", help="replace OUT if it holds packed shards")
    pack.set_defaults(action=_pack)


def _add_verify(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from evaluators.datasets.published import FOLDER, SHOULD

    width = max(map(len, SHOULD))
    known = "\n".join(f"  {name:{width}}  {should.title}" for name, should in SHOULD.items())
    verify = actions.add_parser(
        "verify",
        help=_VERIFY,
        description=f"{_VERIFY}. Nothing is downloaded or changed. Exit code 0: right, 1: it deviates.",
        epilog=f"names:\n{known}\n  {FOLDER:{width}}  a data set of your own, in any layout for classification\n"
        f"example:\n  {_VERIFY_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("name", metavar="NAME", help="which data set it should be; see below")
    verify.add_argument("root", type=Path, metavar="ROOT", help="its root folder")
    verify.add_argument(
        "--sample", type=_above_zero, default=200, metavar="N", help="images to decode wholly (default: %(default)s)"
    )
    verify.add_argument("--seed", type=seed, default=0, metavar="N", help="which images (default: %(default)s)")
    verify.add_argument("--full", action="store_true", help="also hash every byte of every file into one fingerprint")
    verify.set_defaults(action=_verify)


def _new_folder(text: str) -> Path:
    if not text or "\0" in text:  # an empty path would be the current folder
        raise argparse.ArgumentTypeError(f"expected a folder, found {text!r}")
    return Path(text)


def _above_zero(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _quality(text: str) -> int:
    # Pillow's own bounds: above 95 files grow and pictures do not.
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 95):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 95, found {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found {text!r}")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    code: int = args.action(args)
    return code


def _pack(args: argparse.Namespace) -> int:
    from converters.errors import UserError
    from pretrain.input.images import ImageFiles, open_source
    from pretrain.input.pack import Packing, check_free, pack
    from pretrain.input.shards import INDEX

    check_free(args.out, force=args.force)  # before a long listing
    source = open_source(args.source)
    if not isinstance(source, ImageFiles):
        raise UserError(
            expected="a folder of images or a list of files",
            found="tar shards",
            where=args.source,
            cure="they can be pretrained on as they are",
        )
    packing = Packing(args.size, args.shard_images, args.quality, args.max_damaged)
    index = pack(source, args.out, packing, jobs=args.jobs or len(os.sched_getaffinity(0)), force=args.force)
    size = sum(shard.bytes for shard in index.shards)
    print(f"{args.out}: {index.images} images in {len(index.shards)} shards, {size / 1e6:.1f} MB")
    if index.damaged:
        print(f"  {len(index.damaged)} damaged images were left out: {args.out / INDEX} lists them")
    print("pretrain on it with:")
    recipe = "quickstart-moco-v2@1" if source.sample else "moco-v2@1"
    print(f"  moco-transfer pretrain {recipe} --data {args.out} -o OUT")
    return 0


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


def _verify(args: argparse.Namespace) -> int:
    from converters.errors import UserError
    from evaluators.datasets import verify

    should = verify.should_be(args.name)
    if not args.root.is_dir():
        raise UserError(expected="the data set's root folder", found="none", where=args.root, cure="check the path")
    print(f"{args.root}: {should.title if should else 'a data set for classification'}", flush=True)
    try:
        contents = verify.read(args.root, should)
    except UserError as error:
        # The folder is there: what is wrong with it is a finding, not a wrong use of this command.
        print(f"deviates: {error}")
        return 1
    print(f"  layout {contents.layout}, {len(contents.classes):,} classes")
    for part in contents.parts:
        print(f"  {part.name}: {len(part.paths):,} images")
    deviations = 0
    for deviation in verify.count(contents, should) if should else ():
        print(f"deviates: {deviation}")
        deviations += 1
    chosen = verify.sample(contents, args.sample, args.seed)
    bad = 0
    for deviation in verify.damaged(chosen, len(chosen)):
        print(f"deviates: {deviation}")
        bad += 1
    print(f"  {len(chosen):,} images decoded, {bad:,} damaged")
    if args.full:
        digest, files, size = verify.fingerprint_of_all(args.root)
        print(f"  {files:,} files, {size / 1e9:.2f} GB, sha256 of all: {digest}")
    deviations += bad
    print(f"{deviations} deviations" if deviations else "right" if should else "readable")
    return int(deviations > 0)
