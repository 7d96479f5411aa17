"""`moco-transfer inspect`."""

from __future__ import annotations

import argparse

HELP = "inspect"
EXAMPLE = "moco-transfer inspect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(args: argparse.Namespace) -> int:
    """Do it."""
    raise NotImplementedError
