"""Checkpoints in the layout of facebookresearch/moco@7397dfe, with what an exact resume needs beside it.

The reference's fields: `epoch` (finished epochs), `arch`, `state_dict` (names begin with `module.`), `optimizer`. Ours:
`schema`, `recipe`, `seed`, `data`, `rng`, `scaler`, `loader`, `group`.

A file's name says where in the run it stands: `checkpoint_0003.pth.tar` after epoch 3 (from 0), as in the reference,
and `checkpoint_0004_000120.pth.tar` after 120 steps of epoch 4.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from converters import untrusted
from converters.errors import CheckFailed, UserError
from converters.files import sync_folder
from pretrain import distributed
from pretrain.recipes import EXECUTION_FIELDS, Recipe
from pretrain.step import Step

SCHEMA = 2
PREFIX = "module."
_NAME = re.compile(r"checkpoint_(\d{4,})(?:_(\d{6,}))?\.pth\.tar")


class Position(NamedTuple):
    """Where a run stands; positions are ordered."""

    epoch: int
    """Finished epochs."""
    batch: int = 0
    """Finished steps of the epoch after them."""


@dataclass(frozen=True)
class Run:
    """What a checkpoint says of the run that it belongs to."""

    recipe: Recipe
    seed: int
    fingerprint: str
    """Of the images."""
    images: int | None
    """How many there are, where that is known."""
    sample: bool
    """Whether they are generated sample data."""
    processes: int
    bn_groups: int
    """Sub-batches of the step with BN statistics of their own, over all processes."""


def path_for(out: Path, position: Position) -> Path:
    """Where the checkpoint at `position` lies."""
    if position.batch:
        return out / f"checkpoint_{position.epoch:04d}_{position.batch:06d}.pth.tar"
    return out / f"checkpoint_{position.epoch - 1:04d}.pth.tar"


def newest(out: Path) -> Path | None:
    """The checkpoint in `out` that the run came farthest with, if there is one."""
    return max(_all(out), key=position_of, default=None)


def save(
    out: Path, run: Run, step: Step, position: Position, *, sums: list[float] | None = None, layout: Any = None
) -> Path:
    """Write the state at `position`, whole or not at all: to a temporary file, flushed, renamed.

    Args:
        out: the run's folder.
        run: what it is.
        step: model, optimizer and scaler.
        position: finished epochs and batches.
        sums: in mid-epoch, what the epoch's row of the log has summed up so far.
        layout: in mid-epoch, what must be the same for the loader to go on with the very next batch.

    Raises:
        CheckFailed: if it cannot be written, as on a full disk; what was there before is intact.
    """
    path = path_for(out, position)
    content = {
        "schema": SCHEMA,
        "epoch": position.epoch,
        "arch": run.recipe.arch,
        "state_dict": {PREFIX + name: tensor.contiguous() for name, tensor in step.mechanism.state_dict().items()},
        "optimizer": step.optimizer.state_dict(),
        "recipe": run.recipe.model_dump(mode="json"),
        "seed": run.seed,
        "data": {"fingerprint": run.fingerprint, "images": run.images, "sample": run.sample},
        "rng": _generators(),
        "scaler": step.scaler.state_dict(),
        "loader": {"epoch": position.epoch, "batch": position.batch, "sums": sums or [], "layout": layout},
        "group": {"processes": run.processes, "bn_groups": run.bn_groups},
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(out)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = newest(out)
        raise CheckFailed(
            f"{path}: the checkpoint could not be written ({_reason(error)}); "
            + (f"the one before is intact: {kept}" if kept else "there is none before it")
        ) from error
    return path


def _reason(error: BaseException) -> str:
    """What the system said, where torch says only that a file ends too early while it handles that."""
    met: BaseException | None = error
    while met is not None:
        if isinstance(met, OSError) and met.strerror:
            return met.strerror
        met = met.__context__
    # torch says in its first line what it met, and then where in its own source.
    return str(error).strip().splitlines()[0]


def _generators() -> dict[str, Any]:
    """The state of all random generators, as values that `weights_only` admits."""
    _, key, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what a library may have used
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [np.asarray(key).tolist(), place, has_gauss, gauss],
        "python": random.getstate(),
    }


def _restore_generators(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    key, place, has_gauss, gauss = states["numpy"]
    np.random.set_state(("MT19937", np.array(key, np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    version, inner, following = states["python"]
    random.setstate((version, tuple(inner), following))


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
    "scaler": Mapping,
    "loader": Mapping,
    "group": Mapping,
}
_WITHIN = (
    ("data", "fingerprint"),
    ("rng", "torch"),
    ("rng", "cuda"),
    ("rng", "numpy"),
    ("rng", "python"),
    ("loader", "batch"),
    ("loader", "sums"),
    ("loader", "layout"),
    ("group", "bn_groups"),
    ("group", "processes"),
)


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
    for key, name in _WITHIN:
        if name not in content[key]:
            raise _refused(path, f"a whole checkpoint, with {name!r} in the field {key!r}", "none")
    position, told = position_of(path), (content["epoch"], content["loader"]["batch"])
    if told != position:
        expected = f"{position.epoch} finished epochs and {position.batch} steps, as its name says"
        raise _refused(path, expected, f"{told[0]} and {told[1]}")
    return Saved(content, file.sha256)


def _refused(path: Path, expected: str, found: str) -> UserError:
    cure = "remove it to go on from the one before, or start anew with --force"
    return UserError(expected=expected, found=found, where=path, cure=cure)


def _kind(value: object) -> str:
    return "none" if value is None else f"a {type(value).__name__}"


def check_same_run(content: Mapping[str, Any], path: Path, run: Run) -> None:
    """See that a checkpoint comes from the run that is asked for.

    Raises:
        UserError: naming the first difference.
    """
    ignored = EXECUTION_FIELDS | {"overrides"}
    saved = {key: value for key, value in content["recipe"].items() if key not in ignored}
    wanted = run.recipe.computation()
    saved |= {"seed": content["seed"], "data": content["data"]["fingerprint"]}
    wanted |= {"seed": run.seed, "data": run.fingerprint}
    for key in sorted(saved.keys() | wanted.keys()):
        if saved.get(key) != wanted.get(key):
            raise UserError(
                expected=f"the run of this folder, whose {key} is {saved.get(key)}",
                found=f"{key} {wanted.get(key)}",
                where=path,
                cure="choose another folder with -o, or start anew with --force",
            )
    groups, processes = content["group"]["bn_groups"], content["group"]["processes"]
    if groups != run.bn_groups:
        # Another number of processes is right where the BN groups stay, and another computation where they do not.
        raise UserError(
            expected=f"{groups} BN groups, as this run began on {processes} process{'' if processes == 1 else 'es'}",
            found=f"{run.bn_groups} over {run.processes}",
            where=path,
            cure=f"go on with {processes} processes, choose another folder with -o, or start anew with --force",
        )


def check_layout(content: Mapping[str, Any], path: Path, layout: Any) -> None:
    """See that the loader can go on in the middle of an epoch with the very next batch.

    Raises:
        UserError: if it would hand out other images.
    """
    saved = content["loader"]
    if saved["batch"] and saved["layout"] != layout:
        raise UserError(
            expected=f"the images shared out as before, {saved['layout']}, in the middle of an epoch",
            found=str(layout),
            where=path,
            cure="go on with as many processes and workers, or remove this file to go on from the last whole epoch",
        )


def restore(content: Mapping[str, Any], path: Path, step: Step) -> None:
    """Put model, optimizer, scaler and random generators back to the state that was saved.

    Raises:
        UserError: if that state is of another model.
    """
    optimizer = step.optimizer
    try:
        step.mechanism.load_state_dict(without_prefix(content["state_dict"]))
        # A copy, because the optimizer keeps the tensors that it is given, and these are mapped from the file.
        optimizer.load_state_dict(copy.deepcopy(content["optimizer"]))
        if content["scaler"]:
            step.scaler.load_state_dict(dict(content["scaler"]))
        _restore_generators(content["rng"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        # torch says first what it was doing, then line by line what was wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _refused(path, "the state of this recipe's model", f"another ({lines[:2][-1].strip()[:160]})") from None
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape != parameter.shape:
                found = f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                raise _refused(path, "the state of this recipe's optimizer", found)
            # The fused optimizer takes both for laid out alike, and the run may have had another memory format.
            state[name] = torch.empty_like(parameter).copy_(value)


def check_finite(step: Step, out: Path, *, number: int, lr: float) -> None:
    """See that a state is worth keeping; rank 0's counts, because it is what `save` writes.

    Raises:
        CheckFailed: in every process, if a weight or statistic is NaN or infinite.
    """
    state = step.mechanism.state_dict()
    ruined = [name for name, value in state.items() if not torch.isfinite(value).all()]
    device = next(iter(state.values())).device
    if distributed.from_main(torch.tensor(len(ruined), device=device)).item():
        raise not_finite(f"the state ({ruined[0] if ruined else 'of process 0'}) is not finite", out, step, number, lr)


def not_finite(what: str, out: Path, step: Step, number: int, lr: float) -> CheckFailed:
    """The error for a run that diverged at step `number`."""
    scale = f", scale {step.scaler.get_scale():g}" if step.scaler.is_enabled() else ""
    return CheckFailed(
        f"{what} at step {number}, lr {lr:g}{scale}; newest checkpoint: {newest(out) or 'none'}; "
        "a lower lr or a higher temperature may help"
    )


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's `state_dict` under the names of `MoCo`."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state_dict.items()}


def prune(out: Path, recipe: Recipe) -> None:
    """Remove all checkpoints but the newest `keep_last`, and the ends of every `keep_every`-th epoch."""
    for path in sorted(_all(out), key=position_of)[: -recipe.keep_last]:
        position = position_of(path)
        if position.batch or not recipe.keep_every or position.epoch % recipe.keep_every:
            path.unlink()


def clear(out: Path) -> None:
    """Remove all checkpoints."""
    for path in _all(out):
        path.unlink()


def clear_partial(out: Path) -> None:
    """Remove what a killed run was writing."""
    for path in out.glob(".checkpoint_*.partial"):
        path.unlink()


def position_of(path: Path) -> Position:
    """Where the checkpoint called so stands."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    epoch, batch = int(match.group(1)), match.group(2)
    return Position(epoch + 1) if batch is None else Position(epoch, int(batch))


def _all(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if _NAME.fullmatch(path.name)] if out.is_dir() else []
