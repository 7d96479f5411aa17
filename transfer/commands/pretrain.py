"""`moco-transfer pretrain`."""

from __future__ import annotations

import argparse

HELP = "pretrain"
EXAMPLE = "moco-transfer pretrain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
