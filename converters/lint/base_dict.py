"""The values that a configuration inherits, which behave a little unlike plain dicts."""

from __future__ import annotations

import copy
from typing import Any

from converters.lint.limits import Budget


class Imported(str):
    """A class or function that a configuration imports: nothing but its name. `type=ResNet` reads as `'ResNet'`."""

    __slots__ = ()


class BaseDict(dict[str, Any]):
    """A dict that came from a base, where mmengine has its ConfigDict: `update` goes into dicts within."""

    def update(self, *others: Any, **named: Any) -> None:
        """Merge, without replacing a dict by a dict."""
        for other in (*others, named):
            for key, value in dict(other).items():
                if isinstance(value, dict) and isinstance(self.get(key), BaseDict):
                    self[key].update(value)
                else:
                    self[key] = as_base(value)

    def merge(self, other: dict[str, Any]) -> None:
        """The same, where `_delete_=True` in a dict means: instead of what was there."""
        merged = _merged(copy.deepcopy(other), copy.deepcopy(self))
        self.clear()
        super().update(as_base(merged))


def _merged(new: Any, old: Any) -> Any:
    if not isinstance(new, dict):
        return new
    delete = new.pop("_delete_", False)
    if not isinstance(old, dict):
        return new
    kept = {} if delete else dict(old)
    return kept | {key: _merged(value, kept.get(key)) for key, value in new.items()}


def as_base(value: Any) -> Any:
    """A value as it is seen through a base."""
    if isinstance(value, dict):
        return BaseDict({key: as_base(inner) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(as_base(inner) for inner in value)
    return value


def copied(value: Any, budget: Budget) -> Any:
    """A deep copy of dicts, lists and tuples, in which nothing is shared; costs as many steps as it has values."""
    budget.spend()
    if isinstance(value, dict):
        return type(value)({key: copied(inner, budget) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(copied(inner, budget) for inner in value)
    return value
