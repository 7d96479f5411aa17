"""An interpreter of the part of Python that configurations are written in: it computes values, and nothing else.

It knows literals, names, arithmetic, comparisons, subscripts, comprehensions, f-strings, assignments, `del`, and calls
of a few functions and methods that only compute. Anything else is an error that names the line. Attributes are keys of
dicts (`_base_.model`) or names of imported things, never those of Python objects, so there is no way from a value to
the interpreter around it. Every step costs, and every size is bounded.
"""

from __future__ import annotations

import ast
import copy
import operator
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.errors import UserError
from converters.lint.limits import NODES, TEXT, Budget

_INT_BITS = 512


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


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
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
_FUNCTIONS: dict[str, Callable[..., Any]] = {
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
_NUMBERS_IN_FORMAT = re.compile(r"\d{4,}")


class _PlainFormatter(string.Formatter):
    """`str.format` with places and names alone: attributes and subscripts of a value are refused."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not re.fullmatch(r"\w*", field_name):
            raise ValueError(f"{field_name!r} in a format")
        return super().get_field(field_name, args, kwargs)


class Interpreter:
    """Runs the statements of one file.

    Args:
        path: of the file, for errors.
        names: what is defined at its start; takes what it defines.
        budget: shared with its bases.
    """

    def __init__(self, path: Path, names: dict[str, Any], budget: Budget) -> None:
        self.path, self.names, self.budget = path, names, budget
        self._scopes: list[dict[str, Any]] = [names]

    def refuse(self, node: ast.AST, what: str) -> UserError:
        """The error for something that is no data."""
        return UserError(
            expected="a configuration of plain values",
            found=what,
            where=f"{self.path}, line {getattr(node, 'lineno', 0)}",
            cure="write the value itself, or, only for a file that you trust, run it as code with --execute",
        )

    def run(self, statements: Sequence[ast.stmt]) -> None:
        """Execute assignments and calls of methods that only compute.

        Raises:
            UserError: for anything else, and for what Python itself would raise.
        """
        for statement in statements:
            try:
                self._statement(statement)
            except UserError:
                raise
            except (RecursionError, MemoryError):
                raise self.refuse(statement, "values nested too deep") from None
            except Exception as error:  # what the configuration's own code would have raised
                raise self.refuse(statement, f"{type(error).__name__}: {error}") from None

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign():
                value = self.value(node.value)
                for target in node.targets:
                    self._assign(target, value)
            case ast.AnnAssign(value=ast.expr() as expression):
                self._assign(node.target, self.value(expression))
            case ast.AugAssign():
                self._assign(node.target, self._in_place(node, self.value(node.target), self.value(node.value)))
            case ast.Delete():
                for target in node.targets:
                    self._delete(target)
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=ast.Call()):
                self.value(node.value)
            case _:
                raise self.refuse(node, _described(node))

    def _in_place(self, node: ast.AugAssign, left: Any, right: Any) -> Any:
        if isinstance(left, list) and isinstance(node.op, ast.Add):
            left.extend(self._iterated(right))  # the same list, under all of its names
            return self._bounded(node, left)
        return self._binary(node, type(node.op), left, right)

    def _assign(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                self._scopes[-1][name] = value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                values = list(self._iterated(value))
                if len(values) != len(parts):
                    raise self.refuse(target, f"{len(values)} values for {len(parts)} names")
                for part, inner in zip(parts, values, strict=True):
                    self._assign(part, inner)
            case ast.Subscript():
                item_holder = self._item_holder(target)
                # What a base takes in, it copies.
                item_holder[self.value(target.slice)] = as_base(value) if isinstance(item_holder, BaseDict) else value
            case ast.Attribute():
                holder = self.value(target.value)
                if not isinstance(holder, dict):
                    raise self.refuse(target, f"the attribute {target.attr!r}")
                holder[target.attr] = as_base(value) if isinstance(holder, BaseDict) else value
            case _:
                raise self.refuse(target, _described(target))

    def _delete(self, target: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                del self._scopes[-1][name]
            case ast.Subscript():
                del self._item_holder(target)[self.value(target.slice)]
            case ast.Attribute():
                holder = self.value(target.value)
                if not isinstance(holder, dict):
                    raise self.refuse(target, f"the attribute {target.attr!r}")
                del holder[target.attr]
            case _:
                raise self.refuse(target, _described(target))

    def _item_holder(self, target: ast.Subscript) -> Any:
        holder = self.value(target.value)
        if not isinstance(holder, (dict, list)):
            raise self.refuse(target, f"an item of a {type(holder).__name__}")
        return holder

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; raises as `run`."""
        self.budget.spend()
        return self._bounded(node, self._value(node))

    def _bounded(self, node: ast.AST, value: Any) -> Any:
        """Whatever is computed stays small, so that what is computed from it can be."""
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _INT_BITS:
            raise self.refuse(node, f"a number of {value.bit_length()} bits")
        if isinstance(value, str) and len(value) > TEXT:
            raise self.refuse(node, f"a string of {len(value)} characters")
        if isinstance(value, (dict, list, tuple, set, range)) and len(value) > NODES:
            raise self.refuse(node, f"a {type(value).__name__} of {len(value)} values")
        return value

    def _value(self, node: ast.expr) -> Any:  # noqa: PLR0911, PLR0912 - one case a kind of expression
        match node:
            case ast.Constant(value=value):
                if isinstance(value, (bytes, complex)) or value is Ellipsis:
                    raise self.refuse(node, repr(value))
                return value
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.List(elts=parts):
                return list(self._parts(parts))
            case ast.Tuple(elts=parts):
                return tuple(self._parts(parts))
            case ast.Set(elts=parts):
                return set(self._parts(parts))
            case ast.Dict():
                return self._dict(node)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self.value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(node, type(op), self.value(left), self.value(right))
            case ast.BoolOp(op=op, values=values):
                return self._boolean(isinstance(op, ast.And), values)
            case ast.Compare():
                return self._compare(node)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self.value(body) if self.value(test) else self.value(other)
            case ast.Subscript(value=holder, slice=index):
                return self._subscript(node, self.value(holder), index)
            case ast.Attribute(value=holder, attr=name):
                return self._attribute(node, self.value(holder), name)
            case ast.JoinedStr(values=values):
                return "".join(str(self.value(value)) for value in values)
            case ast.FormattedValue():
                return self._formatted(node)
            case ast.ListComp(elt=element, generators=generators):
                return [self.value(element) for _ in self._loops(generators)]
            case ast.GeneratorExp(elt=element, generators=generators):
                return [self.value(element) for _ in self._loops(generators)]
            case ast.SetComp(elt=element, generators=generators):
                return {self.value(element) for _ in self._loops(generators)}
            case ast.DictComp(key=key, value=value, generators=generators):
                return {self.value(key): self.value(value) for _ in self._loops(generators)}
            case ast.Call():
                return self._call(node)
            case _:
                raise self.refuse(node, _described(node))

    def _name(self, node: ast.AST, name: str) -> Any:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise self.refuse(node, f"the name {name!r}, which nothing defines")

    def _parts(self, parts: Sequence[ast.expr]) -> Iterator[Any]:
        for part in parts:
            if isinstance(part, ast.Starred):
                yield from self._iterated(self.value(part.value))
            else:
                yield self.value(part)

    def _iterated(self, value: Any) -> Iterator[Any]:
        if not isinstance(value, (list, tuple, set, dict, range, str)):
            raise TypeError(f"{type(value).__name__} has no elements")
        for inner in value:
            self.budget.spend()
            yield inner

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                result |= dict(self.value(value))
            else:
                result[self.value(key)] = self.value(value)
        return result

    def _binary(self, node: ast.AST, op: type[ast.operator], left: Any, right: Any) -> Any:
        if op not in _BINARY:
            raise self.refuse(node, f"the operator {op.__name__}")
        if op is ast.Pow and not (abs(left) <= 1e6 and abs(right) <= 64):
            raise self.refuse(node, "a large power")
        if op is ast.Mult:
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > TEXT:
                    raise self.refuse(node, f"a {type(one).__name__} of {len(one) * other} values")
        if op is ast.Mod and isinstance(left, str) and (_NUMBERS_IN_FORMAT.search(left) or "*" in left):
            raise self.refuse(node, "a format with a large width")
        return self._bounded(node, _BINARY[op](left, right))

    def _boolean(self, both: bool, values: Sequence[ast.expr]) -> Any:
        result: Any = None
        for value in values:
            result = self.value(value)
            if bool(result) is not both:
                break
        return result

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.value(comparator)
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _subscript(self, node: ast.AST, holder: Any, index: ast.expr) -> Any:
        if not isinstance(holder, (dict, list, tuple, str, range)):
            raise self.refuse(node, f"an item of a {type(holder).__name__}")
        if isinstance(index, ast.Slice):
            bounds = (None if part is None else self.value(part) for part in (index.lower, index.upper, index.step))
            return holder[slice(*bounds)]
        return holder[self.value(index)]

    def _attribute(self, node: ast.AST, holder: Any, name: str) -> Any:
        if isinstance(holder, Imported):
            return Imported(f"{holder}.{name}")
        if isinstance(holder, dict) and name in holder:
            return holder[name]
        raise self.refuse(node, f"the attribute {name!r}")

    def _formatted(self, node: ast.FormattedValue) -> str:
        spec = "" if node.format_spec is None else str(self.value(node.format_spec))
        if _NUMBERS_IN_FORMAT.search(spec):
            raise self.refuse(node, "a format with a large width")
        value = self.value(node.value)
        return format(repr(value) if node.conversion == ord("r") else value, spec)

    def _loops(self, generators: Sequence[ast.comprehension]) -> Iterator[None]:
        first, *rest = generators
        if first.is_async:
            raise self.refuse(first.target, "async")
        values = self.value(first.iter)
        self._scopes.append({})
        try:
            for value in self._iterated(values):
                self._assign(first.target, value)
                if all(self.value(condition) for condition in first.ifs):
                    if rest:
                        yield from self._loops(rest)
                    else:
                        yield None
        finally:
            self._scopes.pop()

    def _call(self, node: ast.Call) -> Any:
        arguments = list(self._parts(node.args))
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                named |= dict(self.value(keyword.value))
            else:
                named[keyword.arg] = self.value(keyword.value)
        match node.func:
            case ast.Name(id="deepcopy") | ast.Attribute(value=ast.Name(id="copy"), attr="deepcopy"):
                (value,) = arguments
                return self.copied(value)
            case ast.Name(id=name) if name in _FUNCTIONS and not any(name in scope for scope in self._scopes):
                self._pay(arguments)
                return _FUNCTIONS[name](*arguments, **named)
            case ast.Attribute(value=holder, attr=name):
                return self._method(node, self.value(holder), name, arguments, named)
            case _:
                raise self.refuse(node, f"a call of {ast.unparse(node.func)[:80]}")

    def _method(self, node: ast.Call, holder: Any, name: str, arguments: list[Any], named: dict[str, Any]) -> Any:
        kind = next((kind for kind in _METHODS if isinstance(holder, kind)), None)
        known = kind is not None and name in _METHODS[kind] and not isinstance(holder, Imported)
        if not known or (name == "merge" and not isinstance(holder, BaseDict)):
            raise self.refuse(node, f"a call of {ast.unparse(node.func)[:80]}")
        self._pay([holder, *arguments])
        if name == "format":
            if _NUMBERS_IN_FORMAT.search(holder):
                raise self.refuse(node, "a format with a large width")
            return _PlainFormatter().vformat(holder, arguments, named)
        if name == "replace" and len(holder) * max(map(len, arguments[1:2]), default=1) > TEXT:
            raise self.refuse(node, "a long replacement")
        result = getattr(holder, name)(*arguments, **named)
        self._bounded(node, holder)
        return list(result) if name in ("keys", "values", "items") else result

    def _pay(self, values: Sequence[Any]) -> None:
        """What walks through its arguments costs their length."""
        for value in values:
            if isinstance(value, (dict, list, tuple, set, range)):
                self.budget.spend(len(value))

    def copied(self, value: Any) -> Any:
        """A deep copy in which nothing is shared; costs as many steps as it has values."""
        return copied(value, self.budget)


def copied(value: Any, budget: Budget) -> Any:
    """A deep copy of dicts, lists and tuples, in which nothing is shared; costs as many steps as it has values."""
    budget.spend()
    if isinstance(value, dict):
        return type(value)({key: copied(inner, budget) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(copied(inner, budget) for inner in value)
    return value


def _described(node: ast.AST) -> str:
    """A kind of syntax in words."""
    words: dict[type[ast.AST], str] = {
        ast.Import: "an import",
        ast.ImportFrom: "an import",
        ast.For: "a loop",
        ast.While: "a loop",
        ast.If: "an if statement",
        ast.With: "a with statement",
        ast.Try: "a try statement",
        ast.FunctionDef: "a function",
        ast.AsyncFunctionDef: "a function",
        ast.ClassDef: "a class",
        ast.Lambda: "a lambda",
        ast.Expr: "an expression without effect",
    }
    return words.get(type(node), f"{type(node).__name__.lower()} syntax")
