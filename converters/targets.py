"""The targets of a conversion: one table of how each is written, read back and run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from converters import to_detectron2, to_openmmlab, to_timm, to_torchvision
from converters.backbone import Backbone
from converters.certificate import Target
from converters.metadata import BackboneMetadata
from converters.parity import LiveModel


class _WriteWeights(Protocol):
    def __call__(self, backbone: Backbone, path: Path, /) -> None: ...


class _WriteFragment(Protocol):
    def __call__(self, metadata: BackboneMetadata, weights: str, path: Path, /) -> None: ...


class _ReadWeights(Protocol):
    def __call__(self, path: Path, /) -> Backbone: ...


class _Run(Protocol):
    def __call__(self, backbone: Backbone, fragment: Path, weights: Path, picture: Path, /) -> LiveModel: ...


@dataclass(frozen=True)
class Rules:
    """How one target is served."""

    suffix: str
    """Of the weights' file."""
    write_weights: _WriteWeights
    read_weights: _ReadWeights
    """The backbone back from the written file."""
    fragment_suffix: str | None = None
    write_fragment: _WriteFragment | None = None
    """Writes the settings that the weights need. Raises UserError where the framework cannot build the backbone."""
    needs: tuple[str, ...] = ()
    """The packages (import names) without which the files cannot be run."""
    run: _Run | None = None
    """Builds the framework's own model from the two files, by its own loader; None where no framework computes."""


def _run_by(module: str) -> _Run:
    """`converters.MODULE.run`, whose framework is loaded only when it is called."""

    def run(backbone: Backbone, fragment: Path, weights: Path, picture: Path, /) -> LiveModel:
        live: LiveModel = importlib.import_module(f"converters.{module}").run(backbone, fragment, weights, picture)
        return live

    return run


def _openmmlab(framework: to_openmmlab.Framework, run: _Run) -> Rules:
    return Rules(
        suffix=to_openmmlab.SUFFIX,
        write_weights=to_openmmlab.write_weights,
        read_weights=to_openmmlab.read_weights,
        fragment_suffix=".py",
        write_fragment=partial(to_openmmlab.write_fragment, framework=framework),
        needs=("mmengine", "mmcv", framework),
        run=run,
    )


TARGETS: dict[Target, Rules] = {
    "backbone": Rules(suffix=".safetensors", write_weights=Backbone.save, read_weights=Backbone.load),
    "torchvision": Rules(
        suffix=to_torchvision.SUFFIX,
        write_weights=to_torchvision.write_weights,
        read_weights=to_torchvision.read_weights,
        fragment_suffix=".py",
        write_fragment=to_torchvision.write_fragment,
        run=_run_by("torchvision_model"),
    ),
    "timm": Rules(
        suffix=to_timm.SUFFIX,
        write_weights=Backbone.save,
        read_weights=Backbone.load,
        fragment_suffix=".json",
        write_fragment=to_timm.write_fragment,
        needs=("timm",),
        run=_run_by("timm_model"),
    ),
    "detectron2": Rules(
        suffix=to_detectron2.SUFFIX,
        write_weights=to_detectron2.write_weights,
        read_weights=to_detectron2.read_weights,
        fragment_suffix=".yaml",
        write_fragment=to_detectron2.write_fragment,
        needs=("detectron2",),
        run=_run_by("detectron2_model"),
    ),
    "mmseg": _openmmlab("mmseg", _run_by("mmseg_model")),
    "mmdet": _openmmlab("mmdet", _run_by("mmdet_model")),
    "mmpretrain": _openmmlab("mmpretrain", _run_by("mmpretrain_model")),
}
