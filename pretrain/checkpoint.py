"""Checkpoints in the layout of facebookresearch/moco@7397dfe, with what an exact resume needs beside it.

The reference's fields: `epoch` (finished epochs), `arch`, `state_dict` (names begin with `module.`), `optimizer`. Ours:
`schema`, `recipe`, `seed`, `data`, `rng`, `scaler`, `loader`, `group`.

A file's name says where in the run it stands: `checkpoint_0003.pth.tar` after epoch 3 (from 0), as in the reference,
and `checkpoint_0004_000120.pth.tar` after 120 steps of epoch 4.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from converters import distributed, untrusted
from converters.errors import CheckFailed, UserError
from converters.files import sync_folder
from pretrain import generators
from pretrain.recipes import Recipe
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
        "rng": generators.states(),
        "scaler": step.scaler.state_dict(),
        "loader": {"epoch": position.epoch, "batch": position.batch, "sums": sums or [], "layout": layout},
        "group": {"processes": run.processes},
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
        raise refused(path, error.expected, error.found) from None
    content = file.content
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = repr(content.get("schema")) if isinstance(content, dict) else type(content).__name__
        raise refused(path, f"a checkpoint of schema {SCHEMA}", found)
    for key, kind in _FIELDS.items():
        if not isinstance(content.get(key), kind):
            raise refused(path, f"a whole checkpoint, with the field {key!r}", _kind(content.get(key)))
    for key, name in _WITHIN:
        if name not in content[key]:
            raise refused(path, f"a whole checkpoint, with {name!r} in the field {key!r}", "none")
    position, told = position_of(path), (content["epoch"], content["loader"]["batch"])
    if told != position:
        expected = f"{position.epoch} finished epochs and {position.batch} steps, as its name says"
        raise refused(path, expected, f"{told[0]} and {told[1]}")
    return Saved(content, file.sha256)


def refused(path: Path, expected: str, found: str) -> UserError:
    """The error for a checkpoint that a run cannot go on from."""
    cure = "remove it to go on from the one before, or start anew with --force"
    return UserError(expected=expected, found=found, where=path, cure=cure)


def _kind(value: object) -> str:
    return "none" if value is None else f"a {type(value).__name__}"


def check_finite(step: Step, out: Path, *, number: int, lr: float) -> None:
    """See that a state is worth keeping; rank 0's counts, because it is what `save` writes.

    Raises:
        CheckFailed: in every process, if a weight or statistic is NaN or infinite.
    """
    state = step.mechanism.state_dict()
    momenta = {f"momentum of {n}": step.optimizer.state[p].get("momentum_buffer") for n, p in step.trained()}
    kept = {name: value for name, value in {**state, **momenta}.items() if value is not None}
    ruined = [name for name, value in kept.items() if not torch.isfinite(value).all()]
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
