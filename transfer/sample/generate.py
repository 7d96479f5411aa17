"""Generate the sample data: one generation, four layouts (image folder, VOC, COCO, Cityscapes) under one folder."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from converters.dataset_fingerprint import SAMPLE_MARKER, is_sample
from converters.errors import UserError
from converters.progress import Progress
from converters.settings import Settings
from transfer import __version__
from transfer.sample import layouts, scenes
from transfer.sample.materials import DISTRIBUTIONS, MATERIALS, SPLITS, Photograph, read_photographs

GENERATOR_VERSION = 1
"""Rises whenever the same settings give other bytes."""

NOTICE = (
    "Generated sample data: patches of a few photographs. It shows that the toolkit works. Numbers made on it say "
    "nothing about real benchmarks, whatever names the classes have in this layout."
)


class SampleSize(Settings):
    """How much is generated."""

    crops_train: int = Field(ge=1)
    """Crops a class in the image folder's train split."""
    crops_val: int = Field(ge=1)
    crop_px: int = Field(ge=16)
    """The side of a crop, pixels."""
    scenes_train: int = Field(ge=1)
    """Scenes in the train split of VOC, COCO and Cityscapes."""
    scenes_val: int = Field(ge=1)
    scene_px: int = Field(ge=32)
    """The side of a scene, pixels."""


SIZES: dict[str, SampleSize] = {
    # The images of `tiny` are the first ones of `small`.
    "tiny": SampleSize(crops_train=8, crops_val=4, crop_px=64, scenes_train=20, scenes_val=10, scene_px=128),
    "small": SampleSize(crops_train=210, crops_val=50, crop_px=64, scenes_train=400, scenes_val=120, scene_px=128),
    "large": SampleSize(crops_train=2000, crops_val=200, crop_px=96, scenes_train=4000, scenes_val=500, scene_px=192),
}
"""`small` is the quickstart's."""


def generate(out: Path, size: SampleSize, seed: int, *, force: bool = False) -> None:
    """Write the sample data to `out`: `images/`, `voc/`, `coco/`, `cityscapes/`, and a marker in each and in `out`.

    The same seed, size and package versions give the same bytes. `out` appears as a whole or not at all.

    Args:
        out: the folder to make.
        size: one of `SIZES`, or any other.
        seed: 0 or larger.
        force: replace `out` if it is a folder of sample data.

    Raises:
        UserError: if `out` exists (with `force`: and is no sample data), `seed` is negative, a photograph is absent or
            the folder cannot be written.
        MissingPackage: if a package that holds the photographs is not installed.
    """
    if seed < 0:
        raise UserError(expected="a seed of 0 or larger", found=str(seed), where="--seed")
    _check_free(out, force)
    photographs = read_photographs()
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`: a rename works only inside one file system.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as workshop:
            whole = Path(workshop) / "whole"
            whole.mkdir()
            _write(whole, photographs, size, seed)
            if out.exists():
                out.rename(Path(workshop) / "replaced")
            whole.rename(out)
    except OSError as error:
        raise UserError(
            expected="a folder that can be written",
            found=error.strerror or str(error),
            where=out,
            cure="check permissions and free space",
        ) from None


def _check_free(out: Path, force: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise UserError(
            expected="a path that does not exist", found="one that does", where=out, cure="replace it with --force"
        )
    if out.is_symlink() or not out.is_dir() or not (is_sample(out) or not any(out.iterdir())):
        raise UserError(
            expected="sample data or an empty folder to replace",
            found="something else",
            where=out,
            cure="choose another path",
        )


def _write(root: Path, photographs: tuple[Photograph, ...], size: SampleSize, seed: int) -> None:
    writers: tuple[layouts.SceneWriter, ...] = (
        layouts.Voc(root / "voc"),
        layouts.Coco(root / "coco"),
        layouts.Cityscapes(root / "cityscapes"),
    )
    crop_counts = {"train": size.crops_train, "val": size.crops_val}
    scene_counts = {"train": size.scenes_train, "val": size.scenes_val}

    folder = layouts.ImageFolder(root / "images")
    with Progress("crops", len(MATERIALS) * sum(crop_counts.values()), unit="image") as progress:
        for split in SPLITS:
            for material in range(len(MATERIALS)):
                for index in range(crop_counts[split]):
                    image = scenes.crop(photographs, seed, split, material=material, index=index, px=size.crop_px)
                    folder.add(split, material, index, image)
                progress.step(crop_counts[split])
    with Progress("scenes", sum(scene_counts.values()), unit="image") as progress:
        for split in SPLITS:
            for index in range(scene_counts[split]):
                scene = scenes.scene(photographs, seed, split, index=index, px=size.scene_px)
                encoded = layouts.jpeg(scene.image)
                for writer in writers:
                    writer.add(split, index, scene, encoded)
                progress.step()
    for writer in writers:
        writer.finish()
    _mark(root, photographs, size, seed)


def _mark(root: Path, photographs: tuple[Photograph, ...], size: SampleSize, seed: int) -> None:
    """Lay the marker into the root and into each layout's root, with the classes that each has."""
    marker: dict[str, Any] = {
        "notice": NOTICE,
        "sample": True,
        "generator": {"command": "moco-transfer data sample", "version": GENERATOR_VERSION, "package": __version__},
        "seed": seed,
        "size": size.model_dump(),
        "packages": {
            name: importlib.metadata.version(name) for name in sorted((*DISTRIBUTIONS.values(), "numpy", "pillow"))
        },
        "photographs": {
            material.name: {
                "package": DISTRIBUTIONS[material.package],
                "file": material.file,
                "sha256": photograph.sha256,
                "cut": f"{material.axis} at {material.cut:g}",
            }
            for material, photograph in zip(MATERIALS, photographs, strict=True)
        },
    }
    classes = {
        "images": layouts.ImageFolder.classes(),
        "voc": layouts.Voc.classes(),
        "coco": layouts.Coco.classes(),
        "cityscapes": layouts.Cityscapes.classes(),
    }
    _write_marker(root, {**marker, "classes": classes})
    for layout, mapping in classes.items():
        _write_marker(root / layout, {**marker, "layout": layout, "classes": mapping})


def _write_marker(folder: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    (folder / SAMPLE_MARKER).write_text(text, encoding="utf-8", newline="\n")
