"""Checkpoints in the layout of facebookresearch/moco@7397dfe, with what an exact resume needs beside it.

The reference's fields: `epoch` (finished epochs), `arch`, `state_dict` (names begin with `module.`), `optimizer`. Ours:
`schema`, `recipe`, `seed`, `data`, `rng`, `scaler`, `loader`.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from converters import untrusted
from converters.errors import CheckFailed, UserError
from pretrain import distributed
from pretrain.images import Source
from pretrain.model import MoCo
from pretrain.recipes import EXECUTION_FIELDS, Recipe

SCHEMA = 1
PREFIX = "module."
_NAME = re.compile(r"checkpoint_(\d{4,})\.pth\.tar")


def path_for(out: Path, epoch: int) -> Path:
    """Where the checkpoint after `epoch` (from 0) lies."""
    return out / f"checkpoint_{epoch:04d}.pth.tar"


def newest(out: Path) -> Path | None:
    """The checkpoint of the latest epoch in `out`, if there is one."""
    return max(_all(out), key=_epoch, default=None)


def save(
    out: Path, model: MoCo, optimizer: Optimizer, *, epoch: int, recipe: Recipe, seed: int, images: Source
) -> None:
    """Write the state after `epoch` (from 0), whole or not at all: to a temporary file, flushed, renamed.

    Raises:
        CheckFailed: if it cannot be written, as on a full disk; what was there before is intact.
    """
    path = path_for(out, epoch)
    content = {
        "schema": SCHEMA,
        "epoch": epoch + 1,
        "arch": recipe.arch,
        "state_dict": {PREFIX + name: tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "data": {"fingerprint": images.fingerprint, "images": images.count, "sample": images.sample},
        "rng": {"torch": torch.get_rng_state()},
        "scaler": None,
        "loader": {"epoch": epoch + 1, "batch": 0},
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise CheckFailed(f"{path}: the checkpoint could not be written ({error})") from error


@dataclass(frozen=True)
class Saved:
    """A checkpoint of this package, on the CPU, all fields of which are there."""

    content: dict[str, Any]
    """Its tensors are mapped from disk."""
    sha256: str
    """Of the file's bytes."""


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "state_dict": Mapping,
    "optimizer": dict,
    "recipe": Mapping,
    "seed": int,
    "data": Mapping,
    "rng": Mapping,
}


def load(path: Path) -> Saved:
    """Read a checkpoint of this package; nothing in it is executed.

    Raises:
        UserError: if the file is damaged, no checkpoint of ours, or of another epoch than its name says.
    """
    try:
        file = untrusted.load(path)
    except UserError as error:
        raise _refused(path, error.expected, error.found) from None
    content = file.content
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = repr(content.get("schema")) if isinstance(content, dict) else type(content).__name__
        raise _refused(path, f"a checkpoint of schema {SCHEMA}", found)
    for key, kind in _FIELDS.items():
        if not isinstance(content.get(key), kind):
            raise _refused(path, f"a whole checkpoint, with the field {key!r}", _kind(content.get(key)))
    for key, name in (("data", "fingerprint"), ("rng", "torch")):
        if name not in content[key]:
            raise _refused(path, f"a whole checkpoint, with {name!r} in the field {key!r}", "none")
    if content["epoch"] != _epoch(path) + 1:
        raise _refused(path, f"{_epoch(path) + 1} finished epochs, as its name says", str(content["epoch"]))
    return Saved(content, file.sha256)


def _refused(path: Path, expected: str, found: str) -> UserError:
    cure = "remove it to go on from the one before, or start anew with --force"
    return UserError(expected=expected, found=found, where=path, cure=cure)


def _kind(value: object) -> str:
    return "none" if value is None else f"a {type(value).__name__}"


def check_same_run(content: Mapping[str, Any], path: Path, *, recipe: Recipe, seed: int, images: Source) -> None:
    """See that a checkpoint comes from the run that is asked for.

    Raises:
        UserError: naming the first difference.
    """
    ignored = EXECUTION_FIELDS | {"overrides"}
    saved = {key: value for key, value in content["recipe"].items() if key not in ignored}
    wanted = recipe.computation()
    saved |= {"seed": content["seed"], "data": content["data"]["fingerprint"]}
    wanted |= {"seed": seed, "data": images.fingerprint}
    for key in sorted(saved.keys() | wanted.keys()):
        if saved.get(key) != wanted.get(key):
            raise UserError(
                expected=f"the run of this folder, whose {key} is {saved.get(key)}",
                found=f"{key} {wanted.get(key)}",
                where=path,
                cure="choose another folder with -o, or start anew with --force",
            )


def restore(content: Mapping[str, Any], path: Path, model: MoCo, optimizer: Optimizer) -> None:
    """Put model, optimizer and random generators back to the state that was saved.

    Raises:
        UserError: if that state is of another model.
    """
    try:
        model.load_state_dict(without_prefix(content["state_dict"]))
        # A copy, because the optimizer keeps the tensors that it is given, and these are mapped from the file.
        optimizer.load_state_dict(copy.deepcopy(content["optimizer"]))
        torch.set_rng_state(content["rng"]["torch"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        # torch says first what it was doing, then line by line what was wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _refused(path, "the state of this recipe's model", f"another ({lines[:2][-1].strip()[:160]})") from None
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape != parameter.shape:
                found = f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                raise _refused(path, "the state of this recipe's optimizer", found)


def check_finite(model: MoCo, out: Path, *, step: int, lr: float) -> None:
    """See that a state is worth keeping; rank 0's counts, because it is what `save` writes.

    Raises:
        CheckFailed: in every process, if a weight or statistic is NaN or infinite.
    """
    ruined = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    device = model.queue.device
    if distributed.from_main(torch.tensor(len(ruined), device=device)).item():
        raise not_finite(f"the state ({ruined[0] if ruined else 'of process 0'}) is not finite", out, step=step, lr=lr)


def not_finite(what: str, out: Path, *, step: int, lr: float) -> CheckFailed:
    """The error for a run that diverged."""
    return CheckFailed(
        f"{what} at step {step}, lr {lr:g}; newest checkpoint: {newest(out) or 'none'}; "
        "a lower lr or a higher temperature may help"
    )


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's `state_dict` under the names of `MoCo`."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state_dict.items()}


def prune(out: Path, recipe: Recipe) -> None:
    """Remove all checkpoints but the newest `keep_last` and every `keep_every`-th."""
    for path in sorted(_all(out), key=_epoch)[: -recipe.keep_last]:
        if not recipe.keep_every or (_epoch(path) + 1) % recipe.keep_every:
            path.unlink()


def clear(out: Path) -> None:
    """Remove all checkpoints."""
    for path in _all(out):
        path.unlink()


def clear_partial(out: Path) -> None:
    """Remove what a killed run was writing."""
    for path in out.glob(".checkpoint_*.partial"):
        path.unlink()


def _all(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if _NAME.fullmatch(path.name)] if out.is_dir() else []


def _epoch(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match.group(1))
