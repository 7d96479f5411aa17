"""Tiny image folders of coloured noise, one hue a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 50, 40)}


def image(path: Path, colour: tuple[int, int, int], seed: int, size: int = 32) -> None:
    noise = np.random.default_rng(seed).normal(0, 40, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)).save(path)


def make(root: Path, train: int = 6, val: int = 3) -> Path:
    """`train` and `val` images in each of three classes."""
    seed = 0
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            for index in range(count):
                image(root / split / name / f"{index:02d}.png", colour, seed)
                seed += 1
    return root
