"""What detectron2 0.6 needs on today's Python stack. Call `prepare` before the first import of detectron2.

Each line is applied only where its cause is there, so on a source build of detectron2's main branch nothing happens.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import PIL.Image

from converters.errors import MissingPackage

INSTALL = "uv pip install --group detectron2 (from a checkout of moco-transfer), or build detectron2 from its source"


def prepare(needed_for: str = "conversion to detectron2") -> None:
    """Make `import detectron2` work, or say that it is not installed. Costs nothing when called again.

    Raises:
        MissingPackage: if detectron2 is not installed.
    """
    if "detectron2" in sys.modules and "detectron2._C" in sys.modules:
        return
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        raise MissingPackage("detectron2", INSTALL, needed_for)
    # detectron2/data/transforms names Image.LINEAR when imported; Pillow 10 dropped it, an alias of BILINEAR.
    if not hasattr(PIL.Image, "LINEAR"):
        setattr(PIL.Image, "LINEAR", PIL.Image.Resampling.BILINEAR)  # noqa: B010 - the stubs know no such name
    # Its data and evaluation code names numpy.int and numpy.float, aliases of the builtins that NumPy 1.24 dropped.
    for name, builtin in (("int", int), ("float", float)):
        if name not in vars(np):
            setattr(np, name, builtin)
    # layers/deform_conv.py and evaluation/fast_eval_api.py import the compiled module, which the redistributed 0.6 does
    # not ship. An empty one lets them be imported; what they compute in C++ stays unavailable.
    if importlib.machinery.PathFinder.find_spec("detectron2._C", list(spec.submodule_search_locations or [])) is None:
        sys.modules.setdefault("detectron2._C", types.ModuleType("detectron2._C"))
