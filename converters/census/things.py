"""What the census of a pickle works with: the things that it would build, and the rules for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Thing:
    """What a pickle would build, where it is no number or short text."""

    __slots__ = ("built", "depth", "keys", "kind", "name", "parts", "placed", "weight")

    def __init__(self, kind: str, depth: int = 1, parts: Sequence[Any] = (), name: str = "", weight: int = 1) -> None:
        self.kind = kind
        """`tuple`, `list`, `dict`, `set`, `text` or `bytes` (long ones), `global` (a class or function by name), or
        what rules make."""
        self.depth = depth
        """How many containers lie within each other below it, itself included."""
        self.weight = weight
        """How many values it would be, written out: what is referred to twice counts twice."""
        # Few own a container: a large checkpoint's things would make Python collect its garbage meanwhile.
        self.parts: Sequence[Any] = [] if kind == "list" else parts
        """Of a tuple or list: what it holds."""
        self.name = name
        """Of a global."""
        self.keys: set[Any] | None = None
        """Of a dictionary that is not empty."""
        self.placed = False
        """In another container, and so no longer to be changed."""
        self.built = False

    def __repr__(self) -> str:
        return self.name or f"a {self.kind}"


class Rules(Protocol):
    """What a pickle may name and do, and what comes of it. Each raises `Refused`."""

    def named(self, name: str) -> Thing:
        """A class or function."""

    def called(self, name: str, arguments: Thing) -> Any:
        """A `global` called with a tuple."""

    def restored(self, thing: Thing, state: Any) -> None:
        """A thing given its state."""

    def persistent(self, identity: Any) -> Thing:
        """What lies outside the pickle."""


class Tally:
    """What all pickles of one file have together."""

    def __init__(self) -> None:
        self.operations = 0
        self.names = 0
        self.number_names = 0
        self.calls = 0
        self.copied = 0
        """Bytes of which arrays are made."""
