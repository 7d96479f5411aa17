"""What mmdetection needs where mmcv was built without its compiled operations. Call `prepare` before importing mmdet.

A ResNet needs none of them, but mmdet's modules name them when imported.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

from converters.errors import MissingPackage

INSTALL = "pip install --no-build-isolation onedl-mmcv (where torch and a compiler are installed)"
_COMPILED = "mmcv._ext"


def prepare(needed_for: str = "conversion to mmdet") -> None:
    """Make `import mmdet` work, or say that mmcv is not installed. Costs nothing when called again.

    Where the compiled module is absent, one takes its place in which every operation raises `MissingPackage` when it is
    called.

    Raises:
        MissingPackage: if mmcv is not installed.
    """
    if _COMPILED in sys.modules:
        return
    spec = importlib.util.find_spec("mmcv")
    if spec is None:
        raise MissingPackage("mmcv", "pip install onedl-mmcv", needed_for)
    if importlib.machinery.PathFinder.find_spec(_COMPILED, list(spec.submodule_search_locations or [])) is None:
        module = sys.modules[_COMPILED] = _StandIn(_COMPILED)
        module.__spec__ = importlib.machinery.ModuleSpec(_COMPILED, None)  # importlib refuses a module without one


class _StandIn(types.ModuleType):
    """Has whichever operation it is asked for."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):  # what Python itself asks a module for
            raise AttributeError(name)

        def absent(*_: object, **__: object) -> None:
            raise MissingPackage("mmcv with compiled operations", INSTALL, f"the operation {name}")

        return absent
