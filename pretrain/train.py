"""`pretrain`: images -> MoCo checkpoints -> a backbone file. The loop reads straight down."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from converters import architectures
from converters.errors import UserError
from pretrain import checkpoint, distributed, run_folder
from pretrain.augment import finisher, view_maker
from pretrain.distributed import HereOnly, World
from pretrain.images import Source, open_source
from pretrain.loading import Loader, epoch_images
from pretrain.log import RunLog
from pretrain.model import MoCo, check_queue
from pretrain.recipes import Recipe
from pretrain.schedule import learning_rate

_log = logging.getLogger(__name__)


def pretrain(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    force: bool = False,
) -> Path:
    """Train MoCo on the images below `data` and write the backbone.

    Under `torchrun` every process calls this. A run that was cut off goes on from its newest checkpoint in `out`, and
    ends in the same bits on a CPU; a finished one is left as it is. The seed sets torch's global generator.

    Args:
        recipe: what to train, and how.
        data: a folder of images, in `train/` below it where that exists; class folders are allowed, labels not read.
        out: the run's folder: checkpoints, `log.csv`, TensorBoard events, the backbone.
        seed: of initialisation, order, augmentation and shuffling.
        device: by default this process's GPU, or the CPU.
        force: remove a former run in `out` and start anew.

    Returns:
        The path of the backbone file.

    Raises:
        UserError: for wrong settings or input, or if `out` holds another run.
        CheckFailed: for a loss that is not finite, or a checkpoint that cannot be written.
    """
    with distributed.process_group(device) as world, ExitStack() as held:
        run = distributed.together(lambda: _checked(recipe, data, out, seed, world))
        distributed.together(lambda: run_folder.take(out, held, force=force) if world.is_main else None)

        torch.manual_seed(seed)
        model = MoCo(
            recipe.arch,
            dim=recipe.dim,
            queue_size=recipe.queue_size,
            momentum=recipe.momentum,
            temperature=recipe.temperature,
            mlp=recipe.mlp,
        ).to(world.device)
        optimizer = SGD(
            model.parameters(), recipe.base_lr, momentum=recipe.sgd_momentum, weight_decay=recipe.weight_decay
        )
        start, origin = distributed.together(lambda: _resume(run, model, optimizer))
        _check_agreement(run, start, origin)
        if world.is_main:
            _announce(run, start)
        if start < recipe.epochs:
            _train(run, model, optimizer, start)

        distributed.together(lambda: run_folder.write_backbone(out, recipe.epochs) if world.is_main else None)
        return out / run_folder.BACKBONE


@dataclass(frozen=True)
class _Run:
    """What stays the same throughout."""

    recipe: Recipe
    images: Source
    out: Path
    seed: int
    world: World


def _train(run: _Run, model: MoCo, optimizer: SGD, start: int) -> None:
    """The epochs from `start` on, each with its checkpoint."""
    recipe, world = run.recipe, run.world
    loader = Loader(run.images, recipe, world, view_maker(recipe, run.seed), seed=run.seed)
    finish = finisher(recipe)
    if world.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    network = _in_group(model, world)
    network.train()
    steps = loader.steps
    remaining = (recipe.epochs - start) * steps * recipe.batch_size
    with _log_of(run, start=start, steps=steps, images=remaining) as log:
        for epoch in range(start, recipe.epochs):
            lr = learning_rate(recipe, epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            sums = torch.zeros(3)
            if log:
                log.begin_epoch()

            for step, batch in enumerate(loader.epoch(epoch), start=epoch * steps + 1):
                for fault in batch.faults:
                    raise HereOnly(
                        expected="an image",
                        found=f"one that cannot be read ({fault.reason})",
                        where=fault.where,
                        cure="remove or replace it",
                    )
                im_q, im_k = finish(batch.views, world.device)
                logits, labels = network(im_q, im_k)
                loss = F.cross_entropy(logits, labels)
                measured = torch.stack([loss.detach(), *contrastive_accuracy(logits)]).cpu()
                if not math.isfinite(measured[0].item()):
                    raise checkpoint.not_finite(f"the loss is {measured[0].item()}", run.out, step=step, lr=lr)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()

                sums += measured
                if log:
                    loss_now, top1, top5 = measured.tolist()
                    log.step(recipe.batch_size, epoch=epoch, loss=loss_now, top1=top1, top5=top5, lr=lr)

            # The mean over processes: each has seen as many images as the others.
            means = distributed.total(sums.to(world.device)).div(steps * world.size).tolist()
            done = (epoch + 1) * steps
            checkpoint.check_finite(model, run.out, step=done, lr=lr)
            if log:
                with run_folder.writing(run.out):
                    log.epoch(epoch, done, loss=means[0], top1=means[1], top5=means[2], lr=lr)
                checkpoint.save(run.out, model, optimizer, epoch=epoch, recipe=recipe, seed=run.seed, images=run.images)
                checkpoint.prune(run.out, recipe)


def _log_of(run: _Run, *, start: int, steps: int, images: int) -> AbstractContextManager[RunLog | None]:
    """The log, in the main process alone."""

    def opened() -> AbstractContextManager[RunLog | None]:
        if not run.world.is_main:
            return nullcontext()
        with run_folder.writing(run.out):
            return RunLog(run.out, start=start, steps=steps, images=images)

    return distributed.together(opened)


@torch.no_grad()
def contrastive_accuracy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """N×(1+K) logits, the positive first -> top-1 and top-5 accuracy, percent; a tie is no win."""
    better = (logits[:, 1:] >= logits[:, :1]).sum(dim=1)  # N, negatives not below the positive
    return 100 * (better < 1).float().mean(), 100 * (better < 5).float().mean()


def _in_group(model: MoCo, world: World) -> nn.Module:
    """As the reference wraps it: gradients are averaged, and every forward starts from rank 0's buffers."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, device_ids=[world.device.index] if world.device.type == "cuda" else None)


def _checked(recipe: Recipe, data: str | Path, out: Path, seed: int, world: World) -> _Run:
    """A run that can begin: settings that fit, and at least one global batch of images."""
    architectures.architecture(recipe.arch)
    check_queue(recipe.queue_size, recipe.batch_size)
    world.share(recipe.batch_size, "batch_size")
    run = _Run(recipe, open_source(data), out, seed, world)
    epoch_images(run.images, recipe)
    return run


def _resume(run: _Run, model: MoCo, optimizer: SGD) -> tuple[int, str]:
    """Take up the newest checkpoint of the run's folder; the number of epochs that are done, and its sha256."""
    newest = checkpoint.newest(run.out)
    if newest is None:
        return 0, ""
    saved = checkpoint.load(newest)
    checkpoint.check_same_run(saved.content, newest, recipe=run.recipe, seed=run.seed, images=run.images)
    checkpoint.restore(saved.content, newest, model, optimizer)
    epoch: int = saved.content["epoch"]
    return epoch, saved.sha256


def _check_agreement(run: _Run, start: int, origin: str) -> None:
    """See that every process is about to do its share of one and the same run, from the same state.

    Raises:
        UserError: in every process, if not.
    """
    images = run.images
    state = [run.recipe.computation(), run.seed, images.fingerprint, images.count, start, origin]
    digests = distributed.gather_values(hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest())
    others = [str(number) for number, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise UserError(
            expected="the same run in every process",
            found=f"the processes see different data or checkpoints ({', '.join(others)} others than process 0)",
            where=run.out,
            cure="-o must be on a file system that all share, and --data the same images everywhere",
        )


def _announce(run: _Run, start: int) -> None:
    recipe, images, world = run.recipe, run.images, run.world
    name = recipe.id + (f" ({', '.join(recipe.overrides)})" if recipe.modified else "")
    _log.info("%s: %s, %s, into %s", name, recipe.method, recipe.arch, run.out)
    _log.info(
        "data: %s images in %s%s", images.count or "shards of", images.where, " (sample data)" if images.sample else ""
    )
    _log.info(
        "batch: %d over %d process%s on %s; lr %g = %g per 256 images × %d / 256, %s",
        recipe.batch_size,
        world.size,
        "" if world.size == 1 else "es",
        world.device,
        recipe.base_lr,
        recipe.lr,
        recipe.batch_size,
        "cosine" if recipe.schedule == "cosine" else f"÷ 10 after epochs {', '.join(map(str, recipe.milestones))}",
    )
    if world.size == 1:
        # moco#20, #47, #133: a permutation inside one batch changes no statistic, and the pretext task leaks.
        _log.info("shuffle-BN: no effect in one process; the papers' numbers need several, under torchrun")
    if start >= recipe.epochs:
        _log.info("complete already: all %d epochs are done", recipe.epochs)
    elif start:
        _log.info("goes on after epoch %d of %d", start, recipe.epochs)
