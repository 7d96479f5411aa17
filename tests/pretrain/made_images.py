"""Small folders of generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_images(folder: Path, count: int, *, size: int = 40, seed: int = 0) -> Path:
    """`count` images in two class folders below `folder`/train: smooth random colour fields, each another one."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        path = folder / "train" / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(path)
    return folder
