"""Pretrain MoCo: `python -m pretrain RECIPE --data DIR -o OUT`, the same as `moco-transfer pretrain`.

Several processes, here two on this machine (gloo on a CPU, NCCL on GPUs), by `--processes`, or by torchrun itself:

    python -m pretrain moco-v2@1 --data imagenet -o runs/moco-v2 --processes 2
    torchrun --nproc-per-node 2 -m pretrain moco-v2@1 --data imagenet -o runs/moco-v2
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.command import exit_code, seed
from converters.errors import UserError
from pretrain import launch

if TYPE_CHECKING:
    from pretrain.recipes import Recipe
    from pretrain.train import Monitor

HELP = "pretrain MoCo v1 or v2 on a folder of images, and write the backbone"
EXAMPLE = (
    "moco-transfer pretrain quickstart-moco-v2@1 --data sample/images -o runs/moco-v2\n"
    "  moco-transfer pretrain moco-v2@1 --data imagenet -o runs/moco-v2 --processes 8 --set epochs=800"
)

EXIT_CODES = (
    "exit codes: 0 done, 1 a check failed, 2 wrong use, 75 stopped by SIGTERM or SIGUSR1 with a checkpoint written\n"
    "(the same command goes on); torchrun, where it starts the processes, ends with 1 for all but 0"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="moco-v1@1, moco-v2@1, moco-v1-ig1b@1, or quickstart-moco-v1@1, -v2@1"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="a folder of images (its train/ where there is one), a list of files, or tar shards: a folder of them, a "
        "pattern such as 'train-{000..146}.tar', a list, or a URL that fsspec knows",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="the run's folder; a run cut off there goes on"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of everything random (default 0)")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's field"
    )
    parser.add_argument(
        "--bn-groups",
        type=int,
        metavar="G",
        help="BN and key shuffling over G sub-batches: one GPU with 8 trains as the papers' 8 GPUs did",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--estimate", action="store_true", help="time a few steps, say what the run will take, and write nothing"
    )
    parser.add_argument("--force", action="store_true", help="remove a former run in OUT and start anew")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="on this machine, one a GPU (default 1)")
    parser.add_argument(
        "--nodes", type=int, default=1, metavar="M", help="machines, on each of which this command is started"
    )
    parser.add_argument(
        "--rendezvous", metavar="HOST:PORT", help="where several machines meet: a free port of one of them"
    )


def run(
    args: argparse.Namespace,
    *,
    monitor: Callable[[argparse.Namespace, Recipe], Monitor | None] = lambda _args, _recipe: None,
    module: str = "pretrain",
) -> int:
    """Train, here or in the processes that are asked for, then say how to evaluate.

    Args:
        args: the command line.
        monitor: makes the monitor that it asks for; called in the main process alone.
        module: what the processes are started as, by `python -m`.
    """
    from pretrain.recipes import find_recipe

    assignments = args.assignments if args.bn_groups is None else [*args.assignments, f"bn_groups={args.bn_groups}"]
    recipe = find_recipe(args.recipe).overridden(tuple(assignments))
    several = args.processes * args.nodes
    if several > 1 and args.estimate:
        raise UserError(expected="--estimate alone: the figures for more follow", found="--processes or --nodes")
    if several > 1 and recipe.bn_groups % several:
        raise UserError(
            expected=f"a number of BN groups that {several} processes divide",
            found=str(recipe.bn_groups),
            cure=f"use --bn-groups {-(-recipe.bn_groups // several) * several}, or another number of processes",
        )
    if not launch.is_worker() and (args.processes, args.nodes, args.rendezvous) != (1, 1, None):
        # The same words: a worker knows that it is one, and starts no others.
        command = [sys.executable, "-m", module, *args.words[1:]]
        return launch.launch(command, args.processes, args.nodes, args.rendezvous)

    from converters import distributed
    from pretrain.train import pretrain

    _speak()
    device = distributed.parse_device(args.device)
    if args.estimate:
        from pretrain import estimate

        print("\n".join(estimate.report(recipe, args.data, device)))
        return 0
    look = monitor(args, recipe) if launch.launched_rank() == 0 else None
    backbone = pretrain(recipe, args.data, args.out, seed=args.seed, device=device, force=args.force, monitor=look)
    if launch.launched_rank() == 0:
        print(f"backbone: {backbone}")
        print("evaluate it with:")
        print("\n".join(_evaluations(backbone, args.data)))
    return 0


def _evaluations(backbone: Path, data: str) -> list[str]:
    """Commands that evaluate a backbone on the labelled images it was trained on, or on others where there are none."""
    from converters.dataset_fingerprint import is_sample
    from pretrain.input.images import open_source

    folder = Path(data)
    sample = is_sample(folder) if folder.is_dir() else open_source(data).sample
    protocols = ("quickstart-knn@1", "quickstart-linear@1") if sample else ("knn-dino@1", "linear-moco@1")
    labelled = data if (folder / "val").is_dir() else "FOLDER_WITH_TRAIN_AND_VAL"
    return [f"  moco-transfer evaluate {protocol} --backbone {backbone} --data {labelled}" for protocol in protocols]


def main(
    arguments: Sequence[str] | None = None,
    *,
    declare: Callable[[argparse.ArgumentParser], None] = add_arguments,
    act: Callable[[argparse.Namespace], int] = run,
) -> int:
    """Run as a program; exit codes as for `moco-transfer`. `declare` and `act` may know more options."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain",
        description=HELP,
        epilog=f"example:\n  {EXAMPLE}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    declare(parser)
    launch.begin_worker()
    words = list(sys.argv[1:] if arguments is None else arguments)
    with contextlib.ExitStack() as silence:
        if launch.launched_rank():
            for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
                silence.enter_context(redirect(io.StringIO()))
        args = parser.parse_args(words, argparse.Namespace(words=["pretrain", *words]))
    return exit_code("pretrain", lambda: launch.tell_once(lambda: act(args)))


def _speak() -> None:
    """Show what `pretrain` logs, as plain lines."""
    log = logging.getLogger("pretrain")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]  # not added: a second call in one process must not say everything twice
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
