"""Images without labels: which files a data set holds. Loads no torch, so that a run can plan without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.dataset_fingerprint import IMAGE_ENDINGS, fingerprint, is_image, is_sample
from converters.errors import UserError
from converters.folders import files_below


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
        paths = tuple(sorted(path for path in files_below(root) if _counts(path)))
        if not paths:
            raise UserError(
                expected="images (" + ", ".join(sorted(IMAGE_ENDINGS)) + ")",
                found="none",
                where=root,
                cure="point --data to a folder with images in it or in folders below it",
            )
        try:
            identity = fingerprint(root, paths)
        except OSError as error:
            dangling = Path(error.filename).is_symlink()
            found = "a link to nothing" if dangling else error.strerror or str(error)
            raise _unusable(error.filename, found) from None
        return cls(root, paths, identity, is_sample(folder) or is_sample(folder.parent))


def _counts(path: Path) -> bool:
    if is_image(path.name):
        return True
    # One that dangles may have been a whole class folder. Links among the images themselves are seen by their sizes.
    if path.is_symlink() and not path.exists():
        raise _unusable(path, "a link to nothing")
    return False


def _unusable(path: str | Path, found: str) -> UserError:
    return UserError(expected="images", found=found, where=path, cure="repair or remove it")
