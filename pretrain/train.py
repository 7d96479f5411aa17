"""`pretrain`: images -> MoCo checkpoints -> a backbone file. The loop reads straight down."""

from __future__ import annotations

import logging
import math
import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader

from converters import architectures, families
from converters.errors import CheckFailed, UserError
from pretrain import checkpoint, distributed
from pretrain.augment import TwoViews
from pretrain.distributed import World
from pretrain.images import ImageFolder
from pretrain.loading import EpochBatches, TwoViewImages, Unreadable, Views, collate
from pretrain.log import CSV, TENSORBOARD, RunLog
from pretrain.model import MoCo, check_queue
from pretrain.recipes import Recipe
from pretrain.schedule import learning_rate

BACKBONE = "backbone.safetensors"

_log = logging.getLogger(__name__)


def pretrain(
    recipe: Recipe, data: Path, out: Path, *, seed: int = 0, device: torch.device | None = None, force: bool = False
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
    with distributed.process_group(device) as world:
        architectures.architecture(recipe.arch)
        check_queue(recipe.queue_size, recipe.batch_size)
        world.share(recipe.batch_size, "batch_size")
        run = _Run(recipe, ImageFolder.open(data), out, seed, world)
        _check_images(run)
        if world.is_main:
            _prepare(out, force)
        distributed.wait_for_all()

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
        start = _resume(run, model, optimizer)
        if world.is_main:
            _announce(run, start)
        if start < recipe.epochs:
            _train(run, model, optimizer, start)

        backbone = out / BACKBONE
        if world.is_main and not backbone.exists():
            families.read(checkpoint.path_for(out, recipe.epochs - 1)).save(backbone)
        distributed.wait_for_all()
        return backbone


@dataclass(frozen=True)
class _Run:
    """What stays the same throughout."""

    recipe: Recipe
    images: ImageFolder
    out: Path
    seed: int
    world: World


def _train(run: _Run, model: MoCo, optimizer: SGD, start: int) -> None:
    """The epochs from `start` on, each with its checkpoint."""
    recipe, world = run.recipe, run.world
    batches = EpochBatches(len(run.images.paths), recipe.batch_size, rank=world.rank, world=world.size, seed=run.seed)
    loader = _loader(run, batches)
    network = _in_group(model, world)
    network.train()
    steps = len(batches)
    remaining = (recipe.epochs - start) * steps * recipe.batch_size
    with RunLog(run.out, start=start, steps=steps, images=remaining) if world.is_main else nullcontext() as log:
        for epoch in range(start, recipe.epochs):
            batches.epoch = epoch
            lr = learning_rate(recipe, epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            sums = torch.zeros(3)
            if log:
                log.begin_epoch()

            for step, views in enumerate(loader, start=epoch * steps + 1):
                if isinstance(views, Unreadable):
                    raise views.error()
                im_q, im_k = (view.to(world.device, non_blocking=True) for view in views)
                logits, labels = network(im_q, im_k)
                loss = F.cross_entropy(logits, labels)
                measured = torch.stack([loss.detach(), *contrastive_accuracy(logits)]).cpu()
                if not math.isfinite(measured[0].item()):
                    raise _not_finite(measured[0].item(), step, lr, run.out)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()

                sums += measured
                if log:
                    loss_now, top1, top5 = measured.tolist()
                    log.step(recipe.batch_size, epoch=epoch, loss=loss_now, top1=top1, top5=top5, lr=lr)

            # The mean over processes: each has seen as many images as the others.
            means = distributed.total(sums.to(world.device)).div(steps * world.size).tolist()
            if log:
                log.epoch(epoch, (epoch + 1) * steps, loss=means[0], top1=means[1], top5=means[2], lr=lr)
                checkpoint.save(run.out, model, optimizer, epoch=epoch, recipe=recipe, seed=run.seed, images=run.images)
                checkpoint.prune(run.out, recipe)


@torch.no_grad()
def contrastive_accuracy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """N×(1+K) logits, the positive first -> top-1 and top-5 accuracy, percent."""
    better = (logits[:, 1:] > logits[:, :1]).sum(dim=1)  # N, negatives above the positive
    return 100 * (better < 1).float().mean(), 100 * (better < 5).float().mean()


def _in_group(model: MoCo, world: World) -> nn.Module:
    """As the reference wraps it: gradients are averaged, and every forward starts from rank 0's buffers."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, device_ids=[world.device.index] if world.device.type == "cuda" else None)


def _loader(run: _Run, batches: EpochBatches) -> DataLoader[Views | Unreadable]:
    recipe, world = run.recipe, run.world
    workers = recipe.workers if recipe.workers is not None else _default_workers(world)
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.backends.cudnn.benchmark = True
    return DataLoader(
        TwoViewImages(run.images, TwoViews(recipe, run.seed)),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=on_gpu,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own: the number of workers must not move the model's random stream
    )


def _default_workers(world: World) -> int:
    """On a CPU the encoders want every core, so loading has no process of its own."""
    if world.device.type == "cpu":
        return 0
    return min(16, max(1, (os.cpu_count() or 1) // world.local_size))


def _check_images(run: _Run) -> None:
    """See that there is an epoch of at least one global batch."""
    images, batch_size = len(run.images.paths), run.recipe.batch_size
    if images < batch_size:
        raise UserError(
            expected=f"at least {batch_size} images, one global batch",
            found=str(images),
            where=run.images.root,
            cure=f"use more images, or a smaller batch, as --set batch_size={1 << (images.bit_length() - 1)}",
        )


def _prepare(out: Path, force: bool) -> None:
    """Make `out`, and remove what a former run left half-written, or with `force` all of it."""
    if out.exists() and not out.is_dir():
        raise UserError(expected="a folder", found="a file", where=out, cure="choose another path with -o")
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.clear_partial(out)
    if force:
        checkpoint.clear(out)
        shutil.rmtree(out / TENSORBOARD, ignore_errors=True)
        for name in (CSV, BACKBONE):
            (out / name).unlink(missing_ok=True)
    elif (out / BACKBONE).exists() and checkpoint.newest(out) is None:
        raise UserError(
            expected="a folder without a backbone of another origin",
            found=BACKBONE,
            where=out,
            cure="choose another folder with -o, or start anew with --force",
        )


def _resume(run: _Run, model: MoCo, optimizer: SGD) -> int:
    """Take up the newest checkpoint of the run's folder; the number of epochs that are done."""
    newest = checkpoint.newest(run.out)
    if newest is None:
        return 0
    content = checkpoint.load(newest)
    checkpoint.check_same_run(content, newest, recipe=run.recipe, seed=run.seed, images=run.images)
    checkpoint.restore(content, model, optimizer)
    epoch: int = content["epoch"]
    return epoch


def _announce(run: _Run, start: int) -> None:
    recipe, images, world = run.recipe, run.images, run.world
    name = recipe.id + (f" ({', '.join(recipe.overrides)})" if recipe.modified else "")
    _log.info("%s: %s, %s, into %s", name, recipe.method, recipe.arch, run.out)
    _log.info("data: %d images below %s%s", len(images.paths), images.root, " (sample data)" if images.sample else "")
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
    if start >= recipe.epochs:
        _log.info("complete already: all %d epochs are done", recipe.epochs)
    elif start:
        _log.info("goes on after epoch %d of %d", start, recipe.epochs)


def _not_finite(loss: float, step: int, lr: float, out: Path) -> CheckFailed:
    last = checkpoint.newest(out)
    return CheckFailed(
        f"the loss is {loss} at step {step}, lr {lr:g}; last good checkpoint: {last or 'none'}; "
        "a lower lr or a higher temperature may help"
    )
