"""`pretrain`: images -> MoCo checkpoints -> a backbone file. The loop reads straight down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from converters import distributed
from converters.errors import Stopped
from pretrain import checkpoint, mechanisms, run_folder
from pretrain.checkpoint import Position
from pretrain.input.augment import finisher, view_maker
from pretrain.input.draws import stream
from pretrain.input.loading import Loader
from pretrain.log import RunLog
from pretrain.machine_faults import in_one_line
from pretrain.meter import Meter
from pretrain.plan import Plan, announce, check_agreement, checked
from pretrain.recipes import Recipe
from pretrain.resume import take_up
from pretrain.schedule import learning_rate
from pretrain.signals import Stop, stop_requests
from pretrain.step import Step
from pretrain.tally import Tally
from pretrain.watchdog import watching

Monitor = Callable[[int, nn.Module], Mapping[str, float]]
"""(epochs done, the query encoder in evaluation mode) -> named values; nothing where it has nothing to say."""


def pretrain(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    force: bool = False,
    monitor: Monitor | None = None,
) -> Path:
    """Train MoCo on the images below `data` and write the backbone.

    Under `torchrun` every process calls this. A run that was cut off goes on from its newest checkpoint in `out`, and
    ends in the same bits on a CPU; a finished one is left as it is. The seed sets torch's global generator.

    Args:
        recipe: what to train, and how.
        data: see `pretrain.input.images.open_source`; of a folder its `train/`, where that exists. Labels are not read.
        out: the run's folder: checkpoints, `log.csv` and its picture, TensorBoard events, the backbone.
        seed: of initialisation, order, augmentation and shuffling.
        device: by default this process's GPU, or the CPU.
        force: remove a former run in `out` and start anew.
        monitor: called after each epoch, in the main process alone; it changes nothing of the run.

    Returns:
        The path of the backbone file.

    Raises:
        UserError: for wrong settings or input, if `out` holds another run, or if too many images are damaged.
        CheckFailed: for a loss that is not finite, or a checkpoint that cannot be written.
        Stopped: after SIGTERM or SIGUSR1, once the step is done and a checkpoint is written.
    """
    with (
        stop_requests() as asked_to_stop,
        in_one_line(),
        distributed.process_group(device) as world,
        watching(),
        ExitStack() as held,
    ):
        plan = distributed.together(lambda: checked(recipe, data, out, seed, world))
        distributed.together(lambda: run_folder.take(out, held, force=force) if world.is_main else None)
        loader = Loader(plan.images, recipe, world, view_maker(recipe, seed), seed=seed)

        torch.manual_seed(seed)
        mechanism = mechanisms.build(recipe, images=plan.run.images, bn_groups=recipe.bn_groups // world.size)
        step = Step(mechanism.to(world.device), recipe)
        start, sums, origin = distributed.together(lambda: take_up(plan.out, plan.run, loader.layout, step))
        check_agreement(plan, start, origin)
        if world.is_main:
            announce(plan, start)
        if start.epoch < recipe.epochs:
            _train(_Training(plan, loader, step, asked_to_stop, monitor), start, sums)

        distributed.together(lambda: run_folder.write_backbone(out, recipe.epochs) if world.is_main else None)
        return out / run_folder.BACKBONE


@dataclass(frozen=True)
class _Training:
    """A run and the parts that move."""

    plan: Plan
    loader: Loader
    step: Step
    asked_to_stop: Stop
    monitor: Monitor | None


def _train(training: _Training, start: Position, sums: list[float]) -> None:
    """The steps from `start` on, with their checkpoints."""
    plan, loader, step = training.plan, training.loader, training.step
    recipe, device = plan.recipe, plan.world.device
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    finish, meter, generator = finisher(recipe), Meter(), torch.Generator()
    with _log_of(training, start) as log:
        for epoch in range(start.epoch, recipe.epochs):
            lr = learning_rate(recipe, epoch)
            for group in step.optimizer.param_groups:
                group["lr"] = lr
            first = start.batch if epoch == start.epoch else 0
            tally = Tally(plan, loader.images, sums if first else ())
            log.begin_epoch()

            asked = time.monotonic()
            for batch_number, batch in enumerate(loader.epoch(epoch, first), start=first + 1):
                waited = time.monotonic() - asked
                number = epoch * loader.steps + batch_number
                generator.manual_seed(stream(plan.seed, number))
                im_q, im_k = finish(batch.views, device)
                measured = step(im_q, im_k, batch.number.to(device, non_blocking=True), generator)

                tally.note(batch.faults)
                readings = meter.push(number, measured, stop=training.asked_to_stop.requested, faults=len(batch.faults))
                stop = any(reading.stop for reading in readings)
                ends = batch_number == loader.steps
                saves = ends or stop or (recipe.save_steps > 0 and batch_number % recipe.save_steps == 0)
                if saves:
                    readings += meter.flush()  # so that no checkpoint follows a loss that is not finite
                for reading in readings:
                    if not math.isfinite(reading.loss):
                        raise checkpoint.not_finite(f"the loss is {reading.loss}", plan.out, step, reading.step, lr)
                    tally.add(reading)
                    log.step(recipe.batch_size, waited, reading, epoch=epoch, lr=lr)

                if ends:
                    log.epoch(epoch, number, **tally.means(loader.steps), lr=lr, skipped=tally.skipped)
                if saves:
                    position = Position(epoch + 1) if ends else Position(epoch, batch_number)
                    _save(training, position, tally, lr=lr)
                    if ends and not stop:
                        _look(training, log, epoch + 1, number)
                    if stop and position < Position(recipe.epochs):
                        raise Stopped(f"stopped after step {number}, kept in {checkpoint.path_for(plan.out, position)}")
                asked = time.monotonic()


def _save(training: _Training, position: Position, tally: Tally, *, lr: float) -> None:
    """Write a checkpoint, in the main process, of a state that is finite."""
    plan, loader, step = training.plan, training.loader, training.step
    checkpoint.check_finite(step, plan.out, number=position.epoch * loader.steps + position.batch, lr=lr)
    tally.write_skipped()

    def write() -> None:
        if plan.world.is_main:
            sums = tally.sums if position.batch else None
            checkpoint.save(plan.out, plan.run, step, position, sums=sums, layout=loader.layout)
            checkpoint.prune(plan.out, plan.recipe)

    distributed.together(write)


def _look(training: _Training, log: RunLog, epochs: int, number: int) -> None:
    """Let the monitor look at the query encoder, in the main process; the encoder is put back as it was."""
    encoder, monitor = training.step.mechanism.encoder_q, training.monitor

    def look() -> None:
        if monitor is None:
            return
        with torch.random.fork_rng(), torch.no_grad():
            encoder.eval()
            try:
                log.monitored(monitor(epochs, encoder), number)
            finally:
                encoder.train()

    distributed.together(look)


def _log_of(training: _Training, start: Position) -> RunLog:
    """The log; that of the main process alone writes anything."""
    plan, steps = training.plan, training.loader.steps
    done = start.epoch * steps + start.batch
    images = (plan.recipe.epochs * steps - done) * plan.recipe.batch_size

    def opened() -> RunLog:
        return RunLog(plan.out if plan.world.is_main else None, start=start.epoch, done=done, images=images)

    return distributed.together(opened)
