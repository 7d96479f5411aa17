"""Images without labels: which ones a data set holds. Loads no torch, so that a run can plan without it.

A data set is a folder, a list of files, or WebDataset tar shards (see `shards`); `open_source` tells them apart.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from converters.dataset_fingerprint import IMAGE_ENDINGS, fingerprint, is_image, is_sample, listed
from converters.errors import UserError
from converters.folders import files_below
from pretrain.input import shard_places
from pretrain.input.shards import Shards, holds_shards

_DATA = "a folder of images, a list of files, or tar shards"
UNKNOWN_FORMAT = "no image that Pillow knows"
"""Why a file of another kind cannot be read."""


@dataclass(frozen=True)
class ImageFiles:
    """Images that are files of their own, each with a number: its place in `paths`."""

    root: Path
    """The folder below which all of them lie."""
    paths: tuple[Path, ...]
    fingerprint: str
    """See `converters.dataset_fingerprint`; over the images used, relative to `root`."""
    sample: bool
    """True for generated sample data."""

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.paths)

    @property
    def where(self) -> str:
        """The source as messages name it."""
        return str(self.root)


@dataclass(frozen=True)
class ImageFolder(ImageFiles):
    """All images below a folder, class folders or not: labels are not read.

    `root` is `train/` below the folder given where there is one, as in the reference; otherwise that folder.
    """

    @classmethod
    def open(cls, folder: Path) -> Self:
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
            raise _no_images(root)
        try:
            identity = fingerprint(root, paths)
        except OSError as error:
            dangling = Path(error.filename).is_symlink()
            found = "a link to nothing" if dangling else error.strerror or str(error)
            raise _unusable(error.filename, found) from None
        return cls(root, paths, identity, is_sample(folder) or is_sample(folder.parent))


def _no_images(root: Path) -> UserError:
    expected, found = "images (" + ", ".join(sorted(IMAGE_ENDINGS)) + ")", "none"
    cure = "point --data to a folder with images in it or in folders below it"
    names = sorted(path.relative_to(root) for path in files_below(root) if not path.name.startswith("."))
    if shard := next((name for name in names if name.suffix == shard_places.ENDING), None):
        pattern = root.joinpath(*["*"] * len(shard.parent.parts), f"*{shard_places.ENDING}")
        found, cure = f"tar shards, as {shard}", f"name them by a pattern: --data '{pattern}'"
    elif any(shard_places.is_compressed(name.name) for name in names):
        return shard_places.compressed(root)
    return UserError(expected=expected, found=found, where=root, cure=cure)


@dataclass(frozen=True)
class ImageList(ImageFiles):
    """The images that a text file names, one path a line, absolute or relative to the list's folder.

    Blank lines and lines that begin with `#` count for nothing, nor does the order of the lines. `root` is the deepest
    folder that holds all of them, so that a list of all images of a folder has that folder's fingerprint. A file counts
    whatever its ending.
    """

    file: Path
    """The list."""

    @property
    def where(self) -> str:
        """The source as messages name it."""
        return str(self.file)

    @classmethod
    def open(cls, file: Path) -> Self:
        """Read the list at `file`.

        Raises:
            UserError: naming the line, if one names no file, or one that another line has named; for an empty list.
        """
        sizes: dict[Path, int] = {}
        lines: dict[Path, int] = {}
        for number, text in entries(file):
            if _names_shards(text):
                raise _line(
                    file, number, "an image file, as in the lines above", text, "list images or shards, not both"
                )
            if shard_places.is_compressed(text):
                raise shard_places.compressed(f"{file}, line {number}")
            # Not resolved: a link among the images is an image under its own name, as in a folder.
            path = Path(os.path.abspath(file.parent / text))  # noqa: PTH100 - resolve() would follow links
            if path in sizes:
                raise _line(file, number, "each image once", f"one that line {lines[path]} has named", "remove one")
            sizes[path], lines[path] = _size(path, file, number), number
        if not sizes:
            raise empty(file)
        paths = tuple(sorted(sizes))
        root = Path(os.path.commonpath({path.parent for path in paths}))
        identity = listed((path.relative_to(root).as_posix(), sizes[path]) for path in paths).hexdigest()
        return cls(root, paths, identity, any(is_sample(above) for above in (root, *root.parents[:2])), file)


def entries(file: Path) -> Iterator[tuple[int, str]]:
    """The entries of a text list, each with its line number from 1; blank lines and comments are left out.

    Raises:
        UserError: if there is no such file, or it is no text.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.strip()
                if text and not text.startswith("#"):
                    yield number, text
    except OSError as error:
        found = "nothing" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise UserError(expected=_DATA, found=found, where=file, cure="check the path given as --data") from None
    except UnicodeDecodeError:
        raise UserError(
            expected="a list of files: text in UTF-8, one path a line",
            found="other bytes",
            where=file,
            cure="check the path given as --data",
        ) from None


def empty(file: str | Path) -> UserError:
    """The error for a list without an entry."""
    return UserError(
        expected="a list of images or tar shards, one path a line",
        found="no entry",
        where=file,
        cure="write the paths into it, absolute or relative to the list's folder",
    )


def _size(path: Path, file: Path, number: int) -> int:
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        found = f"none at {path}" if missing else f"{path}: {error.strerror or error}"
    else:
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        found = f"a folder at {path}" if stat.S_ISDIR(status.st_mode) else f"no plain file at {path}"
    raise _line(file, number, "an image file", found, "correct or remove the line")


def _line(file: Path, number: int, expected: str, found: str, cure: str) -> UserError:
    return UserError(expected=expected, found=found, where=f"{file}, line {number}", cure=cure)


def _counts(path: Path) -> bool:
    if is_image(path.name):
        return True
    # One that dangles may have been a whole class folder. Links among the images themselves are seen by their sizes.
    if path.is_symlink() and not path.exists():
        raise _unusable(path, "a link to nothing")
    return False


def _unusable(path: str | Path, found: str) -> UserError:
    return UserError(expected="images", found=found, where=path, cure="repair or remove it")


Source = ImageFiles | Shards


def open_source(data: str | Path) -> Source:
    """What `--data` names: a folder of images, a list of files, or tar shards.

    Shards are named by a folder of them, a pattern, a URL that fsspec knows, or a list of those.

    Raises:
        UserError: if it is none of them, or holds no image.
        MissingPackage: if a URL's protocol needs a package that is not installed.
    """
    text, path = str(data), Path(data)
    if not text or "\0" in text:
        raise UserError(expected=_DATA, found=repr(text), cure="check the path given as --data")
    # Those of Path fail for a text that is too long for a path, as a pattern may be.
    if os.path.isdir(text):  # noqa: PTH112
        return Shards.open(text) if holds_shards(path) else ImageFolder.open(path)
    exists = os.path.exists(text)  # noqa: PTH110
    if shard_places.is_compressed(text) and (exists or shard_places.is_pattern(text)):
        raise shard_places.compressed(text)
    if exists or not shard_places.is_pattern(text):
        if path.suffix == shard_places.ENDING:
            return Shards.open(text)
        first = next(entries(path), None)
        return _listed_shards(path) if first and _names_shards(first[1]) else ImageList.open(path)
    lines = shard_places.lines_of(text)
    if lines is None:
        return Shards.open(text)
    places = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not places:
        raise empty(text)
    folder = text.rpartition("/")[0]
    return Shards.open([place if "://" in place else f"{folder}/{place}" for place in places], text)


def _names_shards(entry: str) -> bool:
    return entry.endswith(shard_places.ENDING) or "://" in entry


def _listed_shards(file: Path) -> Shards:
    places = []
    for number, text in entries(file):
        if not _names_shards(text):
            raise _line(file, number, "a tar shard, as in the lines above", text, "list shards or images, not both")
        places.append(text if "://" in text else str(file.parent / text))
    return Shards.open(places, str(file))
