"""Build a model without drawing the random values that its weights are about to overwrite."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}
"""What torch's initialisations end in, as far as they ask `__torch_function__`."""


class _ZerosForDraws(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _DRAWS:
            return func(*args, **kwargs)
        tensor: Tensor = args[0] if args else kwargs["tensor"]
        if tensor.is_meta:
            return tensor
        with torch.no_grad():
            # Not left as allocated: truncated normals are drawn again until all lie within their bounds.
            return tensor.zero_()


@contextlib.contextmanager
def zeros_for_draws() -> Iterator[None]:
    """Inside, initialisations put 0 where they would draw; torch's random state is the same after it as before.

    Use it only where every tensor that matters is loaded, and that is proved, afterwards.
    """
    with torch.random.fork_rng(devices=[]), _ZerosForDraws():
        yield
