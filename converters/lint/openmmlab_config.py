"""Reading a Python configuration of OpenMMLab (mmengine's format) without executing it.

Both styles: `_base_` with its references, and `with read_base():` with imported classes. The steps are those of
mmengine 0.10, `Config._file2dict`, `Config._merge_a_into_b` and `Config._parse_lazy_import`.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from converters.errors import MissingPackage, UserError
from converters.lint.base_dict import Imported, as_base, copied
from converters.lint.limits import Budget, Chain, read_text
from converters.lint.pure_python import Interpreter

BASE, DELETE = "_base_", "_delete_"

_ENVIRONMENT = re.compile(r"\{\{['\"]?\s*\$(\w+)\s*:\s*([^\s{}]{0,500}?)\s*['\"]?\}\}")
_BASE_VARIABLE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_PLACEHOLDER = "_base_variable_{}_"
_STANDARD = ("copy", "mmengine.config")
"""Modules whose import changes nothing, and whose functions the interpreter has."""


def read(path: Path) -> dict[str, Any]:
    """The values of the configuration at `path`, over its bases.

    Raises:
        UserError: if a file cannot be read or parsed, or does more than compute values; it names file and line.
    """
    chain, budget = Chain(), Budget(path)
    tree = _parsed(path, read_text(path))
    try:
        values = _read_new(path, chain, budget) if is_new_style(tree) else _read(path, chain, budget)
        plain: dict[str, Any] = _plain(copied(values, budget))
    except RecursionError:
        raise UserError(expected="values that end", found="one within itself, or nested too deep", where=path) from None
    return plain


def execute(path: Path) -> dict[str, Any]:
    """The same by mmengine, which runs the file as code.

    Raises:
        MissingPackage: if mmengine is not installed.
        UserError: if mmengine cannot read the file.
    """
    if importlib.util.find_spec("mmengine") is None:
        raise MissingPackage("mmengine", "pip install onedl-mmengine", "--execute")
    from mmengine.config import Config

    if not path.is_file():
        raise UserError(expected="a configuration file", found="none", where=path, cure="check the path")
    try:
        values: dict[str, Any] = Config.fromfile(str(path)).to_dict()
    except Exception as error:  # the file's own code may raise anything
        raise UserError(
            expected="a configuration that mmengine reads", found=f"{type(error).__name__}: {error}", where=path
        ) from None
    return values


def is_new_style(tree: ast.Module) -> bool:
    """Whether the file has `with read_base()`, or imports what it names (mmengine's `Config._is_lazy_import`)."""
    for node in tree.body:
        if isinstance(node, ast.With):
            return True
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] not in _LEGACY):
            return True
    return False


_LEGACY = ("copy", "mmengine", "os", "sys", "math")


def _parsed(path: Path, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise UserError(expected="valid Python", found=error.msg, where=f"{path}, line {error.lineno}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(expected="valid Python", found=str(error) or type(error).__name__, where=path) from None


def _plain(value: Any) -> Any:
    """Without the marks of a base."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(inner) for inner in value)
    if isinstance(value, Imported):
        return value.rpartition(".")[2]
    return value


# --- `_base_` -------------------------------------------------------------------------------------------------------


def _read(path: Path, chain: Chain, budget: Budget) -> dict[str, Any]:
    chain.enter(path)
    text, variables = _substituted(path, read_text(path))
    tree = _parsed(path, text)
    if is_new_style(tree):
        raise UserError(expected="a base in the style of the file that names it", found="read_base()", where=path)
    bases: dict[str, Any] = {}
    for base in _bases(path, tree, budget):
        values = _read(base, chain, budget)
        both = sorted(bases.keys() & values.keys())
        if both:
            raise UserError(expected="each name in one base", found=f"{both[0]!r} in several", where=path)
        bases |= values
    # The file may change what it sees of its bases; that is what it is put over.
    seen = as_base(bases)
    names: dict[str, Any] = {BASE: seen}
    Interpreter(path, names, budget).run([node for node in tree.body if not _is_base(node) and not _harmless(node)])
    own = {key: value for key, value in names.items() if key != BASE and not key.startswith("__")}
    own.pop("_deprecation_", None)
    merged = _merge(_resolved(own, variables, seen, budget, path), copied(seen, budget), path)
    chain.leave()
    return merged


def _is_base(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == BASE


def _harmless(node: ast.stmt) -> bool:
    """An import of what the interpreter has itself."""
    if isinstance(node, ast.Import):
        return all(alias.name in _STANDARD and alias.asname is None for alias in node.names)
    return isinstance(node, ast.ImportFrom) and node.module in _STANDARD and node.level == 0


def _substituted(path: Path, text: str) -> tuple[str, dict[str, str]]:
    """The text without its `{{ }}`, and the placeholders of base variables in it."""
    # As a whole path, as mmengine has it.
    whole = path.absolute()
    for name, value in {
        "fileDirname": str(whole.parent),
        "fileBasename": whole.name,
        "fileBasenameNoExtension": whole.stem,
        "fileExtname": whole.suffix,
    }.items():
        text = re.sub(r"\{\{\s*" + name + r"\s*\}\}", lambda _, value=value: value, text)  # type: ignore[misc]

    def from_environment(match: re.Match[str]) -> str:
        value = os.environ.get(match.group(1), match.group(2))
        if not value:
            raise UserError(
                expected=f"the environment variable {match.group(1)}", found="none, and no default", where=path
            )
        return value

    text = _ENVIRONMENT.sub(from_environment, text)
    variables: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = _PLACEHOLDER.format(len(variables))
        variables[name] = match.group(1)
        return f'"{name}"'

    return _BASE_VARIABLE.sub(placeholder, text), variables


def _bases(path: Path, tree: ast.Module, budget: Budget) -> list[Path]:
    node = next((node for node in tree.body if _is_base(node)), None)
    if node is None:
        return []
    interpreter = Interpreter(path, {}, budget)
    assert isinstance(node, ast.Assign)
    named = interpreter.value(node.value)
    bases = list(named) if isinstance(named, (list, tuple)) else [named]
    for base in bases:
        if not isinstance(base, str) or not base:
            raise interpreter.refuse(node, f"{base!r} as a base")
    return [_base_path(base, path) for base in bases]


def _base_path(base: str, path: Path) -> Path:
    package, colons, inner = base.partition("::")
    if colons:
        return installed(package, path) / ".mim" / "configs" / inner
    if "://" in base or base.startswith("~"):
        raise UserError(expected="a local file as a base", found=repr(base), where=path, cure="name a local copy")
    return path.parent / base


def installed(package: str, where: Path) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        UserError: if there is none.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            expected=f"the package {package}, whose configuration is a base",
            found="none installed",
            where=where,
            cure=f"install {package}, or copy the base beside the file",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _resolved(value: Any, variables: dict[str, str], bases: dict[str, Any], budget: Budget, path: Path) -> Any:
    """A copy in which placeholders have become the values of the base."""
    budget.spend()
    if isinstance(value, dict):
        return {key: _resolved(inner, variables, bases, budget, path) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(inner, variables, bases, budget, path) for inner in value)
    if isinstance(value, str) and value in variables:
        node: Any = bases
        for step in variables[value].split("."):
            if not isinstance(node, dict) or step not in node:
                raise UserError(expected=f"{variables[value]} in a base", found="no such name", where=path)
            node = node[step]
        return copied(node, budget)
    return value


def _merge(new: dict[str, Any], old: dict[str, Any], path: Path) -> dict[str, Any]:
    """`new` over `old`; a dict goes into a dict unless it says `_delete_=True`."""
    merged = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and key in merged and not value.pop(DELETE, False):
            if not isinstance(merged[key], dict):
                raise UserError(
                    expected=f"a {type(merged[key]).__name__} for {key}, as in its base",
                    found="a dict",
                    where=path,
                    cure="put _delete_=True into it to replace the base's value",
                )
            merged[key] = _merge(value, merged[key], path)
        else:
            merged[key] = value
    return merged


# --- `with read_base()` ---------------------------------------------------------------------------------------------


def _read_new(path: Path, chain: Chain, budget: Budget) -> dict[str, Any]:
    chain.enter(path)
    names: dict[str, Any] = {}
    imported: set[str] = set()
    interpreter = Interpreter(path, names, budget)
    for node in _parsed(path, read_text(path)).body:
        if _is_base(node):
            raise interpreter.refuse(node, "_base_ beside read_base()")
        if isinstance(node, ast.With):
            _read_bases(node, interpreter, chain)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if not _harmless(node):
                imported |= _import(node, interpreter, names)
        else:
            interpreter.run([node])
    chain.leave()
    return {
        key: value
        for key, value in names.items()
        if not key.startswith("__") and not (key in imported and isinstance(value, Imported))
    }


def _read_bases(node: ast.With, interpreter: Interpreter, chain: Chain) -> None:
    path, names, budget = interpreter.path, interpreter.names, interpreter.budget
    context = node.items[0].context_expr
    if len(node.items) > 1 or not isinstance(context, ast.Call) or ast.unparse(context.func) != "read_base":
        raise interpreter.refuse(node, "a with statement other than read_base()")
    for statement in node.body:
        if not isinstance(statement, ast.ImportFrom) or statement.module is None:
            raise interpreter.refuse(statement, "something other than `from ... import ...` under read_base()")
        values = as_base(copied(_read_new(_module_path(statement, path), chain, budget), budget))
        for alias in statement.names:
            if alias.name == "*":
                names.update(values)
            elif alias.name in values:
                names[alias.asname or alias.name] = values[alias.name]
            else:
                raise interpreter.refuse(statement, f"the name {alias.name!r}, which the base has not")


def _module_path(statement: ast.ImportFrom, path: Path) -> Path:
    parts = (statement.module or "").split(".")
    if statement.level:
        folder = path.parent
        for _ in range(statement.level - 1):
            folder /= ".."
        return folder.joinpath(*parts).with_suffix(".py")
    return installed(parts[0], path).joinpath(*parts[1:]).with_suffix(".py")


def _import(node: ast.Import | ast.ImportFrom, interpreter: Interpreter, names: dict[str, Any]) -> set[str]:
    """Imported things as their names: nothing is imported."""
    found: set[str] = set()
    for alias in node.names:
        if alias.name == "*":
            raise interpreter.refuse(node, "an import of everything outside read_base()")
        name = alias.asname or alias.name.split(".")[0]
        names[name] = Imported(alias.name if isinstance(node, ast.ImportFrom) else name)
        found.add(name)
    return found
