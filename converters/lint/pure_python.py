"""An interpreter of the part of Python that configurations are written in: it computes values, and nothing else.

It knows literals, names, arithmetic, comparisons, subscripts, comprehensions, f-strings, assignments, `del`, and calls
of a few functions and methods that only compute. Anything else is an error that names the line. Attributes are keys of
dicts (`_base_.model`) or names of imported things, never those of Python objects, so there is no way from a value to
the interpreter around it. Every step costs, and every size is bounded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converters.errors import UserError
from converters.lint import pure_operations as operations
from converters.lint.base_dict import BaseDict, Imported, as_base, copied
from converters.lint.limits import Budget


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
            except operations.Refused as error:
                raise self.refuse(statement, str(error)) from None
            except (RecursionError, MemoryError):
                raise self.refuse(statement, "values nested too deep") from None
            except Exception as error:  # what the configuration's own code would have raised
                raise self.refuse(statement, f"{type(error).__name__}: {str(error)[:200]}") from None

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
            return operations.bounded(left, self.budget)
        return operations.binary(type(node.op), left, right, self.budget)

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
                item_holder[self._walked(self.value(target.slice))] = self._taken(item_holder, value)
            case ast.Attribute():
                holder = self.value(target.value)
                if not isinstance(holder, dict):
                    raise self.refuse(target, f"the attribute {target.attr!r}")
                holder[target.attr] = self._taken(holder, value)
            case _:
                raise self.refuse(target, _described(target))

    def _taken(self, holder: Any, value: Any) -> Any:
        """What a base takes in, it copies."""
        return as_base(self._walked(value)) if isinstance(holder, BaseDict) else value

    def _delete(self, target: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                del self._scopes[-1][name]
            case ast.Subscript():
                del self._item_holder(target)[self._walked(self.value(target.slice))]
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
        return operations.bounded(self._value(node), self.budget)

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
                return {self._walked(part) for part in self._parts(parts)}
            case ast.Dict():
                return self._dict(node)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in operations.UNARY:
                return operations.UNARY[type(op)](self.value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return operations.binary(type(op), self.value(left), self.value(right), self.budget)
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
                return {self._walked(self.value(element)) for _ in self._loops(generators)}
            case ast.DictComp(key=key, value=value, generators=generators):
                return {self._walked(self.value(key)): self.value(value) for _ in self._loops(generators)}
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
                result[self._walked(self.value(key))] = self.value(value)
        return result

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
            if not operations.compare(type(op), left, right, self.budget):
                return False
            left = right
        return True

    def _subscript(self, node: ast.AST, holder: Any, index: ast.expr) -> Any:
        if not isinstance(holder, (dict, list, tuple, str, range)):
            raise self.refuse(node, f"an item of a {type(holder).__name__}")
        if isinstance(index, ast.Slice):
            bounds = (None if part is None else self.value(part) for part in (index.lower, index.upper, index.step))
            return holder[slice(*bounds)]
        return holder[self._walked(self.value(index))]

    def _attribute(self, node: ast.AST, holder: Any, name: str) -> Any:
        if isinstance(holder, Imported):
            return Imported(f"{holder}.{name}")
        if isinstance(holder, dict) and name in holder:
            return holder[name]
        raise self.refuse(node, f"the attribute {name!r}")

    def _formatted(self, node: ast.FormattedValue) -> str:
        spec = "" if node.format_spec is None else str(self.value(node.format_spec))
        value = self._walked(self.value(node.value))
        return operations.formatted(repr(value) if node.conversion == ord("r") else value, spec)

    def _walked(self, value: Any) -> Any:
        """A value that is going to be hashed, shown or copied as a whole."""
        operations.walk(value, self.budget)
        return value

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
                return copied(value, self.budget)
            case ast.Name(id=name) if name in operations.FUNCTIONS and not any(name in scope for scope in self._scopes):
                return operations.call_function(name, arguments, named, self.budget)
            case ast.Attribute(value=holder, attr=name):
                try:
                    return operations.call_method(self.value(holder), name, arguments, named, self.budget)
                except operations.NotKnown:
                    raise self.refuse(node, f"a call of {ast.unparse(node.func)[:80]}") from None
            case _:
                raise self.refuse(node, f"a call of {ast.unparse(node.func)[:80]}")


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
