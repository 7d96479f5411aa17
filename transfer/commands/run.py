"""`moco-transfer run`."""

from __future__ import annotations

import argparse

HELP = "run"
EXAMPLE = "moco-transfer run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
