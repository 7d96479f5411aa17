"""Faults of the machine that torch tells in pages: each as one line, with what helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from converters.distributed import HereFailed, HereOnly
from converters.errors import UserError

_NO_COMPILER = ("InvalidCxxCompiler", "No working C++ compiler", "Cannot find a working triton")


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn what torch raises while training into errors of ours, where it is known what it means.

    Raises:
        UserError: if a GPU's memory does not suffice, or `compile` finds no compiler.
        HereFailed: if a loading process was killed.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HereOnly(
            expected="a step that fits into the GPU's memory",
            found=str(error).splitlines()[0],
            cure="compute it in parts, --set accumulate=2 (or 4, 8), or with --set precision=bf16",
        ) from None
    except RuntimeError as error:
        told = str(error)
        # torch raises this from a signal's handler, wherever the training happens to be.
        if "DataLoader worker" in told:
            line = "a loading process was killed, perhaps for want of memory: try fewer, --set workers=N"
            raise HereFailed(line) from None
        if any(sign in told for sign in _NO_COMPILER):
            raise UserError(
                expected="a C++ compiler, and Triton on a GPU, for compile=true",
                found="none that works",
                cure="install g++, or train without --set compile=true",
            ) from None
        raise
