"""The command line: `moco-transfer SUBCOMMAND …`, the same as `python -m transfer SUBCOMMAND …`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from transfer import __version__

COMMANDS = ("pretrain", "inspect", "convert", "lint", "verify", "evaluate", "run", "report", "data", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0 when done, 1 when something failed, 2 for wrong use.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(words, argparse.Namespace(words=words))
    from converters.command import exit_code
    from converters.errors import UserError
    from reports.errors import ReportError

    return exit_code("moco-transfer", lambda: args.run(args), (UserError, ReportError))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moco-transfer",
        description="How well do self-supervised backbones transfer? Pretrain, convert, evaluate, compare.",
    )
    parser.add_argument("--version", action="version", version=f"moco-transfer {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"transfer.commands.{name}")
        sub = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
