"""Images without labels: which files a data set holds. Loads no torch, so that a run can plan without it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from converters.dataset_fingerprint import fingerprint, is_sample
from converters.errors import UserError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageFolder:
    """All images below a folder, class folders or not: labels are not read."""

    root: Path
    """`train/` below the folder given where there is one, as in the reference; otherwise that folder."""
    paths: tuple[Path, ...]
    fingerprint: str
    """See `converters.dataset_fingerprint`; over the images used, relative to `root`."""
    sample: bool
    """True for generated sample data."""

    @classmethod
    def open(cls, folder: Path) -> ImageFolder:
        """List the images below `folder`.

        Raises:
            UserError: if it does not exist, is no folder, or holds no image.
        """
        if not folder.is_dir():
            raise UserError(
                expected="a folder of images",
                found="a file" if folder.exists() else "nothing",
                where=folder,
                cure="check the path given as --data",
            )
        root = folder / "train" if (folder / "train").is_dir() else folder
        # Links are followed, as torchvision does: class folders are often links.
        found = (Path(base, name) for base, _, names in os.walk(root, followlinks=True) for name in names)
        paths = tuple(sorted(path for path in found if path.suffix.lower() in EXTENSIONS))
        if not paths:
            raise UserError(
                expected="images (" + ", ".join(sorted(EXTENSIONS)) + ")",
                found="none",
                where=root,
                cure="point --data to a folder with images in it or in folders below it",
            )
        return cls(root, paths, fingerprint(root, paths), is_sample(folder) or is_sample(folder.parent))
