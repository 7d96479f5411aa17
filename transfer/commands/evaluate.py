"""`moco-transfer evaluate`."""

from __future__ import annotations

import argparse

HELP = "evaluate"
EXAMPLE = "moco-transfer evaluate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
