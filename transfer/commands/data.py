"""`moco-transfer data`."""

from __future__ import annotations

import argparse

HELP = "data"
EXAMPLE = "moco-transfer data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
