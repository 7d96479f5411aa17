"""How large a stranger's configuration may be. Real ones are far below."""

from __future__ import annotations

import stat
from pathlib import Path

from converters.errors import UserError

FILE_BYTES = 500_000
FILES = 64
"""In one chain of `_BASE_` or `_base_`."""
DEPTH = 16
"""Of such a chain."""
NODES = 400_000
"""Values in a configuration once every alias is written out, and steps of the interpreter."""
NESTING = 64
"""Of values within values."""
TEXT = 100_000
"""Characters of one string."""
INT_BITS = 512
"""Of one whole number."""


def read_text(path: Path) -> str:
    """The text of a configuration.

    Raises:
        UserError: if there is none, it is no regular file, is too large, or no UTF-8.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(expected="a configuration file", found="a folder", where=path, cure="check the path")
        if not stat.S_ISREG(mode):  # a device never ends, and a pipe waits for ever
            raise UserError(expected="a regular file", found="a device, pipe or socket", where=path)
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)  # whatever its size is said to be: /proc says 0
        if len(content) > FILE_BYTES:
            raise UserError(expected=f"a configuration of at most {FILE_BYTES} bytes", found="more", where=path)
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(expected="a configuration file", found="none", where=path, cure="check the path") from None
    except UnicodeDecodeError:
        raise UserError(expected="a configuration in UTF-8", found="other bytes", where=path) from None
    except (OSError, ValueError) as error:
        found = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(expected="a readable file", found=found, where=shortened(path)) from None


def shortened(path: Path) -> str:
    """A path for a message: a stranger's may have any length."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:300]}..."


class Chain:
    """Which files are open on the way to a base: it may not come back to one of them."""

    def __init__(self) -> None:
        self._open: list[Path] = []
        self._count = 0

    def enter(self, path: Path) -> None:
        """Go into a file.

        Raises:
            UserError: for a circle, or too many files.
        """
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # links that lead to each other, a name with a null
            raise UserError(expected="the path of a file", found=str(error)[:200], where=shortened(path)) from None
        if resolved in self._open:
            raise UserError(
                expected="a chain of bases that ends",
                found=f"a circle: it comes back to {path.name}",
                where=self._open[-1],
                cure="remove the base",
            )
        self._count += 1
        if self._count > FILES or len(self._open) >= DEPTH:
            raise UserError(
                expected=f"at most {FILES} base files, {DEPTH} deep",
                found="more",
                where=self._open[0],
                cure="merge some",
            )
        self._open.append(resolved)

    def leave(self) -> None:
        """Come back from it."""
        self._open.pop()


class Budget:
    """Counts down: each value of a configuration costs one."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.left = NODES

    def spend(self, cost: int = 1) -> None:
        """Pay.

        Raises:
            UserError: when nothing is left.
        """
        self.left -= cost
        if self.left < 0:
            raise UserError(
                expected=f"a configuration of at most {NODES} values",
                found="more, once every alias is written out",
                where=self.where,
                cure="this is no configuration for training",
            )
