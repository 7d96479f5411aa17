"""What the interpreter of configurations can do with values: operators, functions and methods that only compute.

Each is bounded before it is done: by the size of its result where that can be told, and by a price for every value that
it walks through. Values can hold one another many times over, so a walk counts each time.
"""

from __future__ import annotations

import ast
import operator
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from converters.lint.base_dict import BaseDict, Imported
from converters.lint.limits import INT_BITS, NODES, TEXT, Budget

_WIDE = re.compile(r"\d{4,}|\*")
"""A width in a format that nobody needs."""
_WIDTH = re.compile(r"\d{2}|:.*\{")
"""A format that may have a width, or takes one from a value."""
_WIDEST = 1000 + 310
"""Characters: the largest width or precision that is allowed, and the digits of a float before its point."""


class NotKnown(Exception):
    """A method that is none of those that only compute."""


class Refused(Exception):
    """Something that no configuration needs; the message says what."""


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "set": set,
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "len": len,
    "sum": sum,
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "sorted": sorted,
    "enumerate": lambda values, start=0: list(enumerate(values, start)),
    "zip": lambda *values: list(zip(*values, strict=False)),
    "range": range,
}
_METHODS: dict[type, frozenset[str]] = {
    dict: frozenset({"update", "merge", "pop", "get", "keys", "values", "items", "copy", "setdefault"}),
    list: frozenset({"append", "extend", "insert", "pop", "copy", "index"}),
    tuple: frozenset({"index"}),
    str: frozenset({"format", "replace", "split", "join", "lower", "upper", "startswith", "endswith", "strip"}),
    set: frozenset({"add", "union"}),
}


class _PlainFormatter(string.Formatter):
    """`str.format` with places and names alone: attributes and subscripts of a value are refused."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not re.fullmatch(r"\w*", field_name):
            raise Refused(f"{field_name[:40]!r} in a format")
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        return formatted(value, format_spec)


def bounded(value: Any, budget: Budget) -> Any:
    """The value itself, paid for: whatever is computed stays small, so that what is computed from it can be.

    Raises:
        Refused: if it is too large.
        UserError: if the budget is spent.
    """
    if isinstance(value, int) and value.bit_length() > INT_BITS:
        raise Refused(f"a number of {value.bit_length()} bits")
    if isinstance(value, str):
        if len(value) > TEXT:
            raise Refused(f"a string of {len(value)} characters")
        budget.spend(len(value) // 100)
    elif isinstance(value, (dict, list, tuple, set, range)):
        if len(value) > NODES:
            raise Refused(f"a {type(value).__name__} of {len(value)} values")
        budget.spend(len(value))
    return value


def walk(value: Any, budget: Budget) -> None:
    """Pay for all that a value holds, each time that it holds it."""
    budget.spend()
    if isinstance(value, dict):
        for key, inner in value.items():
            walk(key, budget)
            walk(inner, budget)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            walk(inner, budget)
    elif isinstance(value, str):
        budget.spend(len(value) // 100)


def binary(op: type[ast.operator], left: Any, right: Any, budget: Budget) -> Any:
    """`left op right`."""
    if op not in _BINARY:
        raise Refused(f"the operator {op.__name__}")
    if op is ast.Pow and not (abs(left) <= 1e6 and abs(right) <= 64):
        raise Refused("a large power")
    if op is ast.Mult:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > TEXT:
                raise Refused(f"a {type(one).__name__} of {len(one) * other} values")
    if op is ast.Mod and isinstance(left, str):
        walk(right, budget)
        if _WIDE.search(left):
            raise Refused("a format with a large width")
        _check_format(left, "%", right.values() if isinstance(right, dict) else _each(right))
    return bounded(_BINARY[op](left, right), budget)


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


def _check_format(template: str, mark: str, values: Iterable[Any]) -> None:
    """Refuse a format whose result could be long: every place may take the longest value, or be as wide as allowed."""
    longest = max(map(_length, values), default=0)
    places = template.count(mark)
    width = _WIDEST if _WIDTH.search(template) else 0
    if len(template) + places * max(longest, width) > TEXT:
        raise Refused(f"a format of {places} places, with values of up to {longest} characters")


def _length(value: Any) -> int:
    """About as many characters as `str` gives; escapes within a list or dict can make up to ten of one."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return 4 + sum(8 + _length(key) + _length(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple, set)):
        return 8 + sum(4 + _length(inner) for inner in value)
    return 180  # the longest whole number within the bits, and more than any other


def compare(op: type[ast.cmpop], left: Any, right: Any, budget: Budget) -> bool:
    """`left op right`."""
    walk(left, budget)
    walk(right, budget)
    return bool(_COMPARE[op](left, right))


def formatted(value: Any, spec: str) -> str:
    """`format(value, spec)` of a value that has been walked through."""
    if _WIDE.search(spec):
        raise Refused("a format with a large width")
    return format(value, spec)


def call_function(name: str, arguments: list[Any], named: dict[str, Any], budget: Budget) -> Any:
    """One of `FUNCTIONS`."""
    for argument in arguments:
        if isinstance(argument, range):
            budget.spend(len(argument))
        else:
            walk(argument, budget)
    if name == "round" and not all(isinstance(digits, int) and abs(digits) <= 64 for digits in arguments[1:]):
        raise Refused("rounding to many digits")
    if name == "sum" and len(arguments) > 1 and len(arguments[0]) > 1000:
        raise Refused("a sum of many lists")
    return bounded(FUNCTIONS[name](*arguments, **named), budget)


def call_method(holder: Any, name: str, arguments: list[Any], named: dict[str, Any], budget: Budget) -> Any:
    """`holder.name(...)`.

    Raises:
        NotKnown: if it is none of those that only compute.
    """
    kind = next((kind for kind in _METHODS if isinstance(holder, kind)), None)
    known = kind is not None and name in _METHODS[kind] and not isinstance(holder, Imported)
    if not known or (name == "merge" and not isinstance(holder, BaseDict)):
        raise NotKnown(name)
    if name in ("merge", "index"):
        walk(holder, budget)
    walk([arguments, named], budget)
    if kind is str:
        result = _call_on_text(holder, name, arguments, named)
    else:
        result = getattr(holder, name)(*arguments, **named)
    bounded(holder, budget)
    return bounded(list(result) if name in ("keys", "values", "items") else result, budget)


def _call_on_text(holder: str, name: str, arguments: list[Any], named: dict[str, Any]) -> Any:
    if name == "format":
        _check_format(holder, "{", [*arguments, *named.values()])
        return _PlainFormatter().vformat(holder, arguments, named)
    if name == "replace" and len(holder) * max(map(len, arguments[1:2]), default=1) > TEXT:
        raise Refused("a long replacement")
    if name == "join" and len(holder) * len(arguments[0]) > TEXT:
        raise Refused("a long text")
    return getattr(holder, name)(*arguments, **named)
