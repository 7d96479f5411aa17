"""Frozen, typo-proof settings: every user-facing file and recipe is a subclass of `Settings`.

Unknown keys are refused with the nearest valid name, values can be overridden by dotted `key=value` strings, and every
refusal is one line that names the file and the key.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from converters.errors import UserError


class Settings(BaseModel):
    """A frozen model that forbids unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


def parse(model: type[S], data: object, where: str | Path) -> S:
    """Validate `data` as `model`.

    Raises:
        UserError: naming `where`, the key, and the nearest valid name for an unknown key.
    """
    if not isinstance(data, Mapping):
        raise UserError(expected="a mapping of settings", found=type(data).__name__, where=where)
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise _as_user_error(error, model, where) from None


def read_yaml(path: Path) -> object:
    """The parsed content of a YAML file.

    Raises:
        UserError: if the file does not exist or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(expected="a YAML file", found="none", where=path, cure="check the path") from None
    except UnicodeDecodeError:
        raise UserError(expected="a YAML file in UTF-8", found="other bytes", where=path) from None
    try:
        data: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(expected="valid YAML", found=str(error), where=path) from None
    return data


def override(settings: S, assignments: Sequence[str], where: str = "--set") -> S:
    """A copy of `settings` with dotted assignments such as `settings.k=[1, 20]` applied; values are read as YAML.

    Raises:
        UserError: for an assignment without `=`, an unknown key or a value of the wrong type.
    """
    data = settings.model_dump()
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UserError(expected="KEY=VALUE", found=repr(assignment), where=where)
        node = data
        *parents, last = key.split(".")
        for parent in parents:
            child = node.get(parent)
            if not isinstance(child, dict):
                raise UserError(
                    expected="a key that has settings below it",
                    found=repr(parent),
                    where=f"{where} {key}",
                    cure=nearest(parent, node),
                )
            node = child
        node[last] = _yaml_scalar(value, where)
    return parse(type(settings), data, where)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A cure line: the valid name nearest to `name`, or the list of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid names: {', '.join(names)}"


def _yaml_scalar(text: str, where: str) -> object:
    try:
        value: object = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(expected="a YAML value", found=repr(text), where=where) from None
    return value


def _as_user_error(error: ValidationError, model: type[BaseModel], where: str | Path) -> UserError:
    """The first of pydantic's complaints as one line."""
    first = error.errors(include_url=False)[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        return UserError(
            expected="known settings only",
            found=f"the unknown key {location!r}",
            where=where,
            cure=nearest(name, _fields_at(model, first["loc"][:-1])),
        )
    found = repr(first["input"]) if first["type"] != "missing" else "nothing"
    message = first["msg"].removeprefix("Value error, ")
    return UserError(
        expected=f"a valid {location!r}" if location else "valid settings", found=found[:120], where=where, cure=message
    )


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The field names of the model that `location` leads to; those of every union member where there are several."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            field = candidate.model_fields.get(str(part))
            # A list index or a union tag names no field: the model stays the same.
            inner.extend(_models_in(field.annotation) if field else [candidate])
        models = inner
    return [name for candidate in models for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _models_in(argument)]
