"""Reading a detectron2 YAML with its chain of `_BASE_`, and nothing but data.

detectron2's own loader falls back to `yaml.unsafe_load`, which executes what a `!!python/...` tag says. Here such a tag
is an error.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import yaml

from converters.errors import UserError
from converters.lint.limits import INT_BITS, NESTING, TEXT, Budget, Chain, read_text

BASE = "_BASE_"

_MERGED = 10_000
"""Keys of one mapping."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_DIGITS = 150
"""Characters of one number."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read(path: Path) -> dict[str, Any]:
    """The configuration at `path` over its bases, as nested dicts; detectron2's defaults are not in it.

    Raises:
        UserError: if a file cannot be read, is no YAML mapping, has a tag that is no data, or is too large; if a base
            is remote, in a home folder, or comes back to a file that is open.
    """
    merged = _read(path, Chain(), Budget(path))
    return merged


def _read(path: Path, chain: Chain, budget: Budget) -> dict[str, Any]:
    chain.enter(path)
    content = _load(path, budget)
    bases = content.pop(BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        merge(_read(_base_path(base, path), chain, budget), merged, path)
    merge(content, merged, path)
    chain.leave()
    return merged


def _base_path(base: object, path: Path) -> Path:
    if not isinstance(base, str) or not base:
        raise UserError(expected=f"a file name in {BASE}", found=repr(base), where=path)
    if _SCHEME.match(base):
        raise UserError(
            expected=f"a local file in {BASE}", found=repr(base), where=path, cure="download it, and name the copy"
        )
    if base.startswith("~"):
        raise UserError(
            expected=f"a path in {BASE} that is the same for everyone",
            found=repr(base),
            where=path,
            cure="write it relative to this file",
        )
    return path.parent / base


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; merged mappings (`<<`) can double with every line, and are bounded here, as numbers are."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Write out the merges of one mapping."""
        super().flatten_mapping(node)
        if len(node.value) > _MERGED:
            raise yaml.constructor.ConstructorError(
                None, None, f"a mapping of {len(node.value)} merged keys", node.start_mark
            )

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """The text of a scalar; of a number, which takes time with the square of its length, only a short one."""
        if node.tag in _NUMBERS and len(node.value) > _DIGITS:
            raise yaml.MarkedYAMLError(None, None, f"a number of {len(node.value)} characters", node.start_mark)
        return super().construct_scalar(node)


def _load(path: Path, budget: Budget) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, with one limit more
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(
            expected="plain data",
            found=" ".join(str(error.problem).split()),
            where=f"{path}, line {line}",
            cure="write the value itself: detectron2 would execute such a tag, lint never does",
        ) from None
    except yaml.MarkedYAMLError as error:
        # Not the error itself, which quotes lines: a stranger's base may be any file of this machine.
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        found = " ".join(str(error.problem).split())
        raise UserError(expected="valid YAML", found=found[:100], where=f"{path}, line {line}") from None
    except yaml.YAMLError:
        raise UserError(expected="valid YAML", found="characters that YAML does not allow", where=path) from None
    except (ValueError, OverflowError):
        raise UserError(expected="valid YAML", found="a number or a date that is none", where=path) from None
    except RecursionError:
        raise UserError(expected="valid YAML", found="values nested too deep", where=path) from None
    if not isinstance(content, dict):
        raise UserError(expected="a mapping of settings", found=type(content).__name__, where=path)
    plain: dict[str, Any] = _plain(content, path, budget)
    return plain


def _plain(value: Any, path: Path, budget: Budget, depth: int = 0) -> Any:
    """A copy with every alias written out, strings read as detectron2 reads them: `(640, 672)` is a tuple."""
    budget.spend()
    if depth > NESTING:
        raise UserError(expected=f"values nested at most {NESTING} deep", found="more, or a circle", where=path)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UserError(expected="names as keys", found=repr(key), where=path)
        return {key: _plain(inner, path, budget, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, path, budget, depth + 1) for inner in value]
    return _literal(value) if isinstance(value, str) else value


def _literal(text: str) -> Any:
    """As yacs decodes a string: a Python literal where it is one."""
    if len(text) > TEXT:
        return text
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    # A long one need not be shown, counted or written anywhere: it stays the text that it is.
    return text if isinstance(found, int) and found.bit_length() > INT_BITS else found


def merge(new: dict[str, Any], into: dict[str, Any], where: Path) -> None:
    """Put `new` over `into`, key by key (fvcore's `load_yaml_with_base`).

    Raises:
        UserError: where a value would become a mapping.
    """
    for key, value in new.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise UserError(
                    expected=f"a value for {key}, as in its base", found="a mapping", where=where, cure="check the key"
                )
            merge(value, into[key], where)
        else:
            into[key] = value
