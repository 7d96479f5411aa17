from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from converters import detectron2_compat
from converters.errors import MissingPackage


def test_nothing_that_exists_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a build whose own modules are there, and with a Pillow and NumPy that still had the old names."""
    compiled = type(sys)("detectron2._C")
    monkeypatch.setitem(sys.modules, "detectron2._C", compiled)
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.setattr(PIL.Image, "LINEAR", "kept", raising=False)
    monkeypatch.setattr(np, "int", "kept", raising=False)
    detectron2_compat.prepare()
    assert sys.modules["detectron2._C"] is compiled
    assert vars(PIL.Image)["LINEAR"] == "kept"
    assert vars(np)["int"] == "kept"


def test_detectron2_can_be_imported_after_it() -> None:
    code = (
        "from converters import detectron2_compat; detectron2_compat.prepare();"
        "import detectron2.modeling, detectron2.data, detectron2.evaluation, detectron2.checkpoint"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_absent_detectron2_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match="install it with: uv pip install --group detectron2"):
        detectron2_compat.prepare()
