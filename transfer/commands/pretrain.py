"""`moco-transfer pretrain`: the same command as `python -m pretrain`."""

from __future__ import annotations

from pretrain.__main__ import EXAMPLE, HELP, add_arguments, run

__all__ = ["EXAMPLE", "HELP", "add_arguments", "run"]
