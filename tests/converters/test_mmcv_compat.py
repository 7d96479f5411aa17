from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from converters import mmcv_compat
from converters.errors import MissingPackage


def test_a_compiled_module_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = type(sys)("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    mmcv_compat.prepare()
    assert sys.modules["mmcv._ext"] is compiled


def test_without_mmcv_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match="expected the package mmcv for conversion to mmdet, found none installed"):
        mmcv_compat.prepare()


def test_an_operation_that_is_not_compiled_says_so_when_called() -> None:
    """Wherever mmcv came with its operations, they work."""
    import mmcv.ops

    from converters import mmdet_model

    assert mmdet_model.MODELS.get("RetinaNet") is not None
    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0.5])
    if isinstance(sys.modules["mmcv._ext"], mmcv_compat._StandIn):
        with pytest.raises(MissingPackage, match="mmcv with compiled operations for the operation nms, found none"):
            mmcv.ops.nms(boxes, scores, 0.5)
    else:
        assert mmcv.ops.nms(boxes, scores, 0.5)[1].tolist() == [0]
