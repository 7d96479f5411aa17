"""`moco-transfer convert`."""

from __future__ import annotations

import argparse

HELP = "convert"
EXAMPLE = "moco-transfer convert"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
