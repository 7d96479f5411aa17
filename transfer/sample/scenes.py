"""Composition: crops of one material, and scenes of several irregular patches over a background.

Every crop and every scene draws from a generator of its own, seeded by (seed, purpose, split, place in the split): so a
smaller data set is the beginning of a larger one with the same image sizes, and no order of work changes a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from transfer.sample.materials import SPLITS, Half, Photograph, Split

Mask = npt.NDArray[np.bool_]

_CROP, _SCENE = 0, 1  # purposes, part of each generator's seed
_SCALE = (0.3, 0.8)  # side of a crop's source window, in parts of the half's short side
_CONTRAST = 20.0  # grey levels; windows flatter than this show nothing of their material
_TRIES = 8  # windows that are tried for it
_PATCHES = (2, 5)
_RADIUS = (0.12, 0.30)  # mean radius of a patch, in parts of the scene's side
_VISIBLE_PART = 0.4  # of a patch's whole area, below which it is left out
_VISIBLE_SIDE = 0.1  # a patch must show at least the area of a square of this side, in parts of the scene's side
_CORNERS = 64  # of a patch's outline


@dataclass(frozen=True)
class Patch:
    """One instance: what is visible of an irregular patch of one material."""

    material: int
    """Index into `MATERIALS`."""
    mask: Mask
    """(H, W): the visible pixels."""
    truncated: bool
    """True where the box of the visible pixels is not the box of the whole patch: cut by the frame, or covered."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """left, top, right, bottom of the visible pixels, right and bottom exclusive."""
        return _box(self.mask)


@dataclass(frozen=True)
class Scene:
    """An image with its exact ground truth."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3), RGB."""
    patches: tuple[Patch, ...]
    """Of different materials; their masks are disjoint."""
    background: int
    """Index into `MATERIALS`; no patch is of this material."""

    @property
    def materials(self) -> npt.NDArray[np.uint8]:
        """(H, W): the index of each pixel's material."""
        labels = np.full(self.image.shape[:2], self.background, dtype=np.uint8)
        for patch in self.patches:
            labels[patch.mask] = patch.material
        return labels


def crop(
    photographs: Sequence[Photograph], seed: int, split: Split, *, material: int, index: int, px: int
) -> Image.Image:
    """The crop number `index` of a material: a square window at random place and scale, resized to `px`."""
    rng = np.random.default_rng([seed, _CROP, SPLITS.index(split), material, index])
    return _cut(photographs[material].half(split), rng, px, px, px)


def scene(photographs: Sequence[Photograph], seed: int, split: Split, *, index: int, px: int) -> Scene:
    """The scene number `index` of a split, `px` by `px`.

    Each material is the background in turn. The patches are placed from the foremost to the hindmost; one that would
    show too little is left out of the scene altogether, so that every pixel of the image is annotated as what it shows.
    """
    rng = np.random.default_rng([seed, _SCENE, SPLITS.index(split), index])
    background = index % len(photographs)
    count = int(rng.integers(_PATCHES[0], _PATCHES[1], endpoint=True))
    others = [material for material in range(len(photographs)) if material != background]
    chosen = rng.choice(others, size=count, replace=False)

    image = np.array(_cut(photographs[background].half(split), rng, px, px, px // 2))
    covered = np.zeros((px, px), dtype=bool)
    patches = []
    for material in chosen.tolist():
        mask, truncated = _place(rng, covered)
        covered |= mask
        left, top, right, bottom = _box(mask)
        texture = _cut(photographs[material].half(split), rng, right - left, bottom - top, px // 2)
        image[top:bottom, left:right][mask[top:bottom, left:right]] = np.array(texture)[mask[top:bottom, left:right]]
        patches.append(Patch(material, mask, truncated))
    return Scene(image, tuple(patches), background)


def _cut(half: Half, rng: np.random.Generator, width: int, height: int, reference: int) -> Image.Image:
    """A window at random place and scale, resized to `width` by `height`.

    `reference` pixels show `_SCALE` times the half's short side: crops and scenes show materials alike. Of a few random
    windows the first with enough contrast is taken, or the one with the most.
    """
    smallest, largest = _SCALE[0], min(_SCALE[1], reference / max(width, height))
    best, best_contrast = (0, 0, 1, 1), -1.0
    for _ in range(_TRIES):
        scale = _log_uniform(rng, min(smallest, largest), largest) * half.short_side / reference
        w, h = max(round(width * scale), 1), max(round(height * scale), 1)
        left = int(rng.integers(half.image.width - w, endpoint=True))
        top = int(rng.integers(half.image.height - h, endpoint=True))
        window = (left, top, left + w, top + h)
        contrast = half.contrast(*window)
        if contrast > best_contrast:
            best, best_contrast = window, contrast
        if contrast >= _CONTRAST:
            break
    return half.image.resize((width, height), Image.Resampling.BICUBIC, box=best)


def _place(rng: np.random.Generator, covered: Mask) -> tuple[Mask, bool]:
    """The visible pixels of a new patch behind those that cover the scene already, and whether it is truncated."""
    px = len(covered)
    while True:
        whole = _draw(_outline(rng) * px, px)
        visible = whole[px : 2 * px, px : 2 * px] & ~covered
        area = int(visible.sum())
        if area >= max(_VISIBLE_PART * whole.sum(), (_VISIBLE_SIDE * px) ** 2):
            left, top, right, bottom = _box(visible)
            return visible, _box(whole) != (left + px, top + px, right + px, bottom + px)


def _outline(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The corners (`_CORNERS`, 2) of a smooth closed line, in parts of the scene's side."""
    angles = np.arange(_CORNERS) * (2 * np.pi / _CORNERS)
    radii = np.ones(_CORNERS)
    for k in range(2, 6):
        radii += rng.normal(0.0, 0.4 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    # The limits keep a patch in one piece, and inside the frame's neighbours that `_draw` holds.
    radii = np.clip(radii, 0.35, 1.8) * _log_uniform(rng, *_RADIUS)
    centre = rng.uniform(0.1, 0.9, size=2)
    corners: npt.NDArray[np.float64] = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return corners


def _draw(corners: npt.NDArray[np.float64], px: int) -> Mask:
    """The polygon on a canvas of three by three frames, with the scene's frame in the middle."""
    canvas = Image.new("1", (3 * px, 3 * px))
    # Whole coordinates: the same pixels on every platform.
    ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in np.rint(corners + px)], fill=1)
    return np.array(canvas)


def _box(mask: Mask) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
