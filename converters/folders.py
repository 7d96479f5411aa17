"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, in no particular order.

    Links to folders are followed, as torchvision does, but never back into a folder on the way to the link: its files
    would be listed again. A dangling link counts as a file.
    """
    on_the_way = {os.fspath(folder): _with_parents(folder)}
    for base, folders, names in os.walk(folder, followlinks=True):
        above = on_the_way.pop(base)
        here, folders[:] = list(folders), []
        for name in here:
            below = _with_parents(Path(base, name))
            if below[0] not in above:
                folders.append(name)
                on_the_way[os.path.join(base, name)] = above + below  # noqa: PTH118 - as os.walk names it
        yield from (Path(base, name) for name in names)


def _with_parents(folder: Path) -> tuple[Path, ...]:
    real = folder.resolve()
    return real, *real.parents
