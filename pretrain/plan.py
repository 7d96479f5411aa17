"""A run that can begin: settings that fit each other, the group and the images; and what is said at its start."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from converters import architectures, distributed
from converters.distributed import World
from converters.errors import UserError
from pretrain import checkpoint
from pretrain.checkpoint import Position
from pretrain.input.images import ImageFiles, Source, open_source
from pretrain.input.loading import epoch_images
from pretrain.model import check_queue
from pretrain.recipes import Recipe

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What stays the same throughout."""

    recipe: Recipe
    images: Source
    out: Path
    seed: int
    world: World

    @property
    def run(self) -> checkpoint.Run:
        """What its checkpoints say of it."""
        return checkpoint.Run(
            recipe=self.recipe,
            seed=self.seed,
            fingerprint=self.images.fingerprint,
            images=self.images.count,
            sample=self.images.sample,
            processes=self.world.size,
        )


def checked(recipe: Recipe, data: str | Path, out: Path, seed: int, world: World) -> Plan:
    """A run that can begin.

    Raises:
        UserError: for an unknown architecture, sizes that do not divide, too few images, or data that cannot be read.
    """
    architectures.architecture(recipe.arch)
    if recipe.mechanism == "queue":
        check_queue(recipe.queue_size, recipe.batch_size)
    world.share(recipe.batch_size, "batch_size")
    plan = Plan(recipe, open_source(data), out, seed, world)
    _check_groups(plan)
    epoch_images(plan.images, recipe)
    if recipe.mechanism == "memory-bank" and not isinstance(plan.images, ImageFiles):
        raise UserError(
            expected="a folder or a list of images: a memory bank has an entry for each",
            found="shards",
            where=plan.images.where,
            cure="use the mechanism queue, which needs none",
        )
    return plan


def _check_groups(plan: Plan) -> None:
    recipe, groups, passes = plan.recipe, plan.recipe.bn_groups, plan.world.size * plan.recipe.accumulate
    if recipe.accumulate > 1 and recipe.mechanism == "end-to-end":
        raise UserError(
            expected="accumulate=1 for end-to-end, whose keys are those of the whole step",
            found=f"accumulate={recipe.accumulate}",
            cure="use more processes instead",
        )
    if groups % passes:
        what = f"{plan.world.size} processes" + (f" × {recipe.accumulate} parts" if recipe.accumulate > 1 else "")
        raise UserError(
            expected=f"a number of BN groups that {what} divide",
            found=str(groups),
            cure=f"use --bn-groups {-(-groups // passes) * passes}, or another number of processes",
        )
    if recipe.batch_size % groups or recipe.batch_size // groups < 2:
        valid = [g for g in range(passes, recipe.batch_size // 2 + 1, passes) if recipe.batch_size % g == 0]
        nearest = min(valid, key=lambda g: abs(g - groups), default=None)
        raise UserError(
            expected="BN groups that divide batch_size into at least two images each",
            found=f"{groups} groups and batch_size {recipe.batch_size}",
            cure=f"use --bn-groups {nearest}" if nearest else "use a larger batch_size",
        )


def check_agreement(plan: Plan, start: Position, origin: str) -> None:
    """See that every process is about to do its share of one and the same run, from the same state.

    Raises:
        UserError: in every process, if not.
    """
    run = plan.run
    state = [plan.recipe.computation(), run.seed, run.fingerprint, run.images, start, origin]
    digests = distributed.gather_values(hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest())
    others = [str(number) for number, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise UserError(
            expected="the same run in every process",
            found=f"the processes see different data or checkpoints ({', '.join(others)} others than process 0)",
            where=plan.out,
            cure="-o must be on a file system that all share, and --data the same images everywhere",
        )


def announce(plan: Plan, start: Position) -> None:
    """Say what is about to be done."""
    recipe, images, world = plan.recipe, plan.images, plan.world
    name = recipe.id + (f" ({', '.join(recipe.overrides)})" if recipe.modified else "")
    _log.info("%s: %s, %s, into %s", name, recipe.method, recipe.arch, plan.out)
    _log.info(
        "data: %d images an epoch, of %s%s",
        epoch_images(images, recipe),
        images.where,
        " (sample data)" if images.sample else "",
    )
    processes = f"{world.size} process{'' if world.size == 1 else 'es'}"
    parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    _log.info(
        "batch: %d over %s on %s%s; lr %g = %g per 256 images × %d / 256, %s",
        recipe.batch_size,
        processes,
        world.device,
        parts,
        recipe.base_lr,
        recipe.lr,
        recipe.batch_size,
        _schedule(recipe),
    )
    _log.info(_batch_norm(plan))
    if start.epoch >= recipe.epochs:
        _log.info("complete already: all %d epochs are done", recipe.epochs)
    elif start > (0, 0):
        steps = f" and {start.batch} steps" if start.batch else ""
        _log.info("goes on after epoch %d%s of %d", start.epoch, steps, recipe.epochs)


def _schedule(recipe: Recipe) -> str:
    if recipe.schedule == "cosine":
        return "cosine"
    milestones = ", ".join(map(str, recipe.milestones[:3])) + (", …" if len(recipe.milestones) > 3 else "")
    return f"× {recipe.lr_decay:g} after epochs {milestones}"


def _batch_norm(plan: Plan) -> str:
    if plan.recipe.bn_groups == 1:
        # moco#20, #47, #133: a permutation inside one batch changes no statistic, and the pretext task leaks.
        return "shuffle-BN: no effect with one BN group; --bn-groups 8 trains as the papers' 8 GPUs did"
    size = plan.recipe.batch_size // plan.recipe.bn_groups
    shuffled = "" if plan.recipe.mechanism == "memory-bank" else ", keys shuffled among all"
    return f"BN: {plan.recipe.bn_groups} groups of {size} images{shuffled}"
