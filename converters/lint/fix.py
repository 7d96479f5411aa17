"""The corrected configuration: a file beside the user's own, which it has as its base, with the changed keys alone."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from converters import files
from converters.errors import UserError
from converters.lint import openmmlab_config
from converters.lint.finding import Path as KeyPath
from converters.lint.finding import Report
from converters.lint.limits import read_text
from converters.lint.rules import RULES

_MISSING = object()


def fixed_path(config: Path, *, force: bool) -> Path:
    """Where the corrected file comes to lie: `NAME.fixed.yaml` beside `NAME.yaml`.

    Raises:
        UserError: if it exists and `force` is not set.
    """
    path = config.with_name(f"{config.stem}.fixed{config.suffix}")
    if path.exists() and not force:
        raise UserError(expected="no file of this name", found="one", where=path, cure="remove it, or use --force")
    return path


def write_fixed(config: Path, report: Report, *, execute: bool = False, force: bool = False) -> Path:
    """Write what the report's findings would change.

    Args:
        config: the file that was held against a backbone.
        report: what was found in it.
        execute: run a Python configuration as code, as it was for the report.
        force: replace a corrected file that exists.

    Returns:
        The corrected file.

    Raises:
        UserError: if it exists and `force` is not set, or the file cannot be a base.
    """
    path = fixed_path(config, force=force)
    rules: dict[KeyPath, str] = {change.path: finding.rule for finding in report.findings for change in finding.changes}
    changes: dict[KeyPath, Any] = {
        change.path: change.value for finding in report.findings for change in finding.changes
    }
    is_python = config.suffix == ".py"
    text = _python(config, changes, rules, execute=execute) if is_python else _yaml(config, changes, rules)
    with files.whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _comment(path: KeyPath, rules: dict[KeyPath, str]) -> str:
    """The rules for which the value at `path` changes."""
    found = {
        rule: None for changed, rule in rules.items() if changed[: len(path)] == path or path[: len(changed)] == changed
    }
    return "; ".join(f"{rule}: {RULES[rule].title}" for rule in found)


def _nested(changes: dict[KeyPath, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        node = tree
        for step in path[:-1]:
            node = node.setdefault(str(step), {})
        node[str(path[-1])] = value
    return tree


def _yaml(config: Path, changes: dict[KeyPath, Any], rules: dict[KeyPath, str]) -> str:
    def lines(tree: dict[str, Any], path: KeyPath) -> Iterator[str]:
        for key, value in tree.items():
            here = (*path, key)
            indent = "  " * len(path)
            if here in changes:
                plain = list(value) if isinstance(value, tuple) else value
                flow = yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
                yield f"{indent}{key}: {flow}  # {_comment(here, rules)}"
            else:
                yield f"{indent}{key}:"
                yield from lines(value, here)

    head = f"# {config.name}, corrected by moco-transfer lint.\n_BASE_: {yaml.safe_dump(config.name).splitlines()[0]}\n"
    return head + "\n".join(lines(_nested(changes), ())) + "\n"


def _python(config: Path, changes: dict[KeyPath, Any], rules: dict[KeyPath, str], *, execute: bool) -> str:
    old = openmmlab_config.execute(config) if execute else openmmlab_config.read(config)
    new: Any = old
    for path, value in changes.items():
        new = _with(new, path, value)
    head = f"# {config.name}, corrected by moco-transfer lint.\n"
    new_style = openmmlab_config.is_new_style(ast.parse(read_text(config)))
    if new_style:
        if not config.stem.isidentifier():
            raise UserError(
                expected="a file name that Python can import, as the base of a corrected file",
                found=repr(config.name),
                where="--fix",
                cure="rename it, or change it by hand as the findings say",
            )
        head += "from mmengine.config import read_base\n\nwith read_base():\n"
        head += f"    from .{config.stem} import *  # noqa: F403\n\n"
    else:
        head += f"_base_ = [{f'./{config.name}'!r}]\n\n"
    body = ""
    for key in dict.fromkeys(path[0] for path in changes):
        assert isinstance(key, str)
        before = old.get(key, _MISSING)
        if before is not _MISSING and _equal(before, new[key]):
            continue  # right already, as one of several places where the value stands
        text = _difference(before, new[key], (key,), rules, 0)
        merges = new_style and isinstance(before, dict) and isinstance(new[key], dict)
        comment = "" if isinstance(new[key], dict) else f"  # {_comment((key,), rules)}"
        body += f"{key}.merge({text})\n" if merges else f"{key} = {text}{comment}\n"
    return head + body


def _with(value: Any, path: KeyPath, new: Any) -> Any:
    """A copy of `value` in which the place at `path` holds `new`; dicts on the way are made where there are none."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return type(value)(_with(inner, rest, new) if place == step else inner for place, inner in enumerate(value))
    within = value if isinstance(value, dict) else {}
    return {**within, step: _with(within.get(step), rest, new)}


def _difference(old: Any, new: Any, path: KeyPath, rules: dict[KeyPath, str], indent: int) -> str:
    """Python for what has to be put over `old` to get `new`."""
    if not isinstance(new, dict):
        return repr(new)
    inner = "    " * (indent + 1)
    items: dict[str, str] = {}
    partly = isinstance(old, dict) and not old.keys() - new.keys()
    if not partly and old is not _MISSING:
        items["_delete_"] = "True"  # what the base has there does not stay
    for key, value in new.items():
        before = old.get(key, _MISSING) if partly else _MISSING
        if before is _MISSING or not _equal(before, value):
            items[key] = _difference(before, value, (*path, key), rules, indent + 1)
    lines = []
    for key, text in items.items():
        named = key.isidentifier() and not keyword.iskeyword(key)
        is_leaf = not isinstance(new.get(key), dict) and key != "_delete_"
        comment = f"  # {_comment((*path, key), rules)}" if is_leaf else ""
        lines.append(f"{inner}{f'{key}=' if named else f'**{{{key!r}: '}{text}{'' if named else '}'},{comment}\n")
    return f"dict(\n{''.join(lines)}{'    ' * indent})"


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
