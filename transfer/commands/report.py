"""`moco-transfer report`."""

from __future__ import annotations

import argparse

HELP = "report"
EXAMPLE = "moco-transfer report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
