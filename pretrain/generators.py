"""The states of all random generators of a process. A step draws from none of them; what a user adds may."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def states() -> dict[str, Any]:
    """The state of all random generators, as values that `weights_only` admits."""
    _, key, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what a library may have used
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [np.asarray(key).tolist(), place, has_gauss, gauss],
        "python": random.getstate(),
    }


def restore(saved: Mapping[str, Any]) -> None:
    """Put all random generators back.

    Raises:
        RuntimeError, ValueError, TypeError, KeyError: if these are no states.
    """
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
    key, place, has_gauss, gauss = saved["numpy"]
    np.random.set_state(("MT19937", np.array(key, np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    version, inner, following = saved["python"]
    random.setstate((version, tuple(inner), following))
