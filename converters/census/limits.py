"""What a checkpoint may hold at most, each with its reason, and the error of one that holds more or otherwise.

A ResNet-152 with a key encoder, a projection head and SGD's buffers has about 2,800 tensors and 100,000 operations.
"""

from __future__ import annotations

MAX_OPERATIONS = 1_000_000
"""Of all pickles in a file: a second or two of the census, ten times what that checkpoint takes."""
MAX_VALUES = MAX_OPERATIONS
"""Written out, so that what is referred to twice counts twice: a few lists, each twice in the next, would keep whoever
walks through them busy for ever."""
MAX_NAMES = 100_000
"""Keys of all dictionaries. A reader takes time and some hundred bytes for each."""
MAX_NUMBER_NAMES = 8192
"""Of them, those that are no strings: optimizers number their parameters. Python hashes numbers as they are, so that a
stranger can choose ones that a dictionary must compare with all others; hashes of strings are drawn by each process."""
MAX_NUMBER_NAME = 1 << 60
"""Below 2**61 - 1, from which on integers of different value hash alike. Optimizers of torch before 1.6 have addresses
of parameters for names, of 47 bits or 56."""
MAX_CALLS = 100_000
"""Of functions, and states given. torch's reader looks each up in a list of what is admitted."""
MAX_ARGUMENTS = 64
"""Of a call, and parts of an array's state. They are copied each time, also where one tuple serves many calls."""
MAX_STAND_INS = 64
"""Names of classes for which an object of ours stands: that list grows with them. OmegaConf needs ten."""
MAX_TENSORS = 20_000
MAX_NAME_BYTES = 1024
"""Of a key. Names of modules stay below 200; an error message shows them."""
MAX_TEXT_BYTES = 1 << 28
"""Of one string. Protocol 2 pickles an array's bytes as text, which can take four times as much in memory."""
MAX_INTEGER_BYTES = 16
"""torch's own magic number has 10; arithmetic on longer ones takes time."""
MAX_DEPTH = 64
"""Containers within containers. Python hashes and frees nested ones recursively, on a stack that overflows."""
MAX_DIMENSIONS = 16
"""Of a tensor. A backbone's have 4 at most."""
MAX_SHARING = 8
"""How often a file's bytes may be claimed by its tensors together: tied weights are saved once, and a few bytes can
claim any shape. Arrays' bytes are copied as often."""
MAX_ENTRIES = 2 * MAX_TENSORS
"""Of a zip archive, in which torch gives every storage an entry."""
MAX_PICKLE_BYTES = 1 << 26
"""Of the pickle within a zip archive, which is read as a whole. A ResNet-152's has less than 1 MB."""
MAX_HEADER_BYTES = 1 << 22
"""Of a safetensors header. A ResNet-152's has 100 kB, and parsed JSON can take forty times as much in memory."""


class Refused(Exception):
    """What a census found wrong with a file."""

    def __init__(self, expected: str, found: str, cure: str | None = None) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found, self.cure = expected, found, cure


def not_admitted(name: str) -> Refused:
    """The refusal of a class or function that only running its code could restore."""
    return Refused(
        "tensors and plain data only",
        f"a pickled {name}, which is not run",
        "save its state dict alone, where you trust the file: torch.save({'state_dict': ...}, NEW)",
    )


def too_many(what: str, limit: int) -> Refused:
    """The refusal of a count."""
    return Refused(f"at most {limit:,} {what}", "more")


def clip(text: object, length: int = 80) -> str:
    """A stranger's name as it can be shown: escaped, and not longer than a line."""
    shown = repr(text)
    return shown if len(shown) <= length else f"{shown[:length]}…"
