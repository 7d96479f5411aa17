"""Going on from a checkpoint: that it is this run's, and back to the very state that was saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.errors import UserError
from pretrain import checkpoint, generators
from pretrain.checkpoint import Position
from pretrain.recipes import EXECUTION_FIELDS
from pretrain.step import Step


def take_up(out: Path, run: checkpoint.Run, layout: Any, step: Step) -> tuple[Position, list[float], str]:
    """Go on from the newest checkpoint in `out`, if there is one.

    Args:
        out: the run's folder.
        run: what is asked for.
        layout: how the loader shares out the images now.
        step: gets the state.

    Returns:
        Where the run stands, the sums of the epoch's log row so far, and the checkpoint's sha256.

    Raises:
        UserError: if the checkpoint is damaged, or of another run.
    """
    newest = checkpoint.newest(out)
    if newest is None:
        return Position(0), [], ""
    saved = checkpoint.load(newest)
    check_same_run(saved.content, newest, run)
    check_layout(saved.content, newest, layout)
    restore(saved.content, newest, step)
    return checkpoint.position_of(newest), list(saved.content["loader"]["sums"]), saved.sha256


def check_same_run(content: Mapping[str, Any], path: Path, run: checkpoint.Run) -> None:
    """See that a checkpoint comes from the run that is asked for.

    The number of processes is no part of that: `bn_groups`, which the recipe declares over all of them, is.

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
        step.mechanism.load_state_dict(checkpoint.without_prefix(content["state_dict"]))
        # A copy, because the optimizer keeps the tensors that it is given, and these are mapped from the file.
        optimizer.load_state_dict(copy.deepcopy(content["optimizer"]))
        if content["scaler"]:
            step.scaler.load_state_dict(dict(content["scaler"]))
        generators.restore(content["rng"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        # torch says first what it was doing, then line by line what was wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise checkpoint.refused(
            path, "the state of this recipe's model", f"another ({lines[:2][-1].strip()[:160]})"
        ) from None
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape != parameter.shape:
                found = f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                raise checkpoint.refused(path, "the state of this recipe's optimizer", found)
            # The fused optimizer takes both for laid out alike, and the run may have had another memory format.
            state[name] = torch.empty_like(parameter).copy_(value)
