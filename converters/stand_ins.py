"""Empty objects that stand for hyper-parameters and logs in strangers' checkpoints, whose code is not run."""

from __future__ import annotations

from typing import Any


class Unread:
    """Stands for an object of any class; keeps nothing of it."""

    def __new__(cls, *_arguments: Any) -> Unread:
        """Whatever it was made of."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...


class Dictionary:
    """Makes a plain dictionary where a class was pickled that is one with a convenience."""

    def __new__(cls, *_arguments: Any) -> Any:
        """An empty one; its items come after it."""
        return {}
