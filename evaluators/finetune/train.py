"""The training: one network, one learning rate and weight decay, from the first step to the last.

Under a process group every process computes the gradient of its share of each batch; the sum of all is the gradient of
the batch's mean loss, whatever the shares. Shapes: B images of a share, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import StringIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.distributed import from_main, rank, size, together, total
from converters.errors import CheckFailed, UserError
from converters.progress import Progress
from evaluators import shares
from evaluators.finetune.schedule import Plan
from evaluators.finetune.state import State
from evaluators.images import Batches, Images, stream
from evaluators.settings.finetune import FinetuneSettings


@dataclass(frozen=True)
class Epoch:
    """A line of the learning curve."""

    epoch: int
    """1 is the first."""
    lr: float
    """Of the backbone, in the epoch's last step."""
    loss: float
    """Mean over its images."""
    train_top1: float
    """Percent of its augmented images, each as it was trained on."""


@dataclass(frozen=True)
class Rates:
    """What a grid varies."""

    lr: float
    """Of the backbone, at the start."""
    weight_decay: float


class Diverged(CheckFailed):
    """A learning rate that is too large; every process meets it at the same step."""


def train(
    module: nn.Module,
    images: Images,
    settings: FinetuneSettings,
    rates: Rates,
    *,
    order_seed: int,
    state: State,
    label: str,
) -> list[Epoch]:
    """Train `module` in place, its parameters and its running statistics, and return the learning curve.

    Args:
        module: N×3×H×W -> N×C, its classifier in `fc`; images go to the device of its parameters.
        images: the training images.
        settings: schedule, momentum, batch.
        rates: learning rate and weight decay.
        order_seed: of the order of the images in each epoch.
        state: where the training is saved after an epoch, and what an earlier attempt left there.
        label: of the progress display.

    Raises:
        UserError: in every process, for an image that one of them cannot decode, or more processes than shares.
        Diverged: in every process, if the loss, a weight or a running statistic is not finite.
        CheckFailed: in every process, if the disk is full.
    """
    module.train()
    plan = Plan(settings, len(images))
    _check_shares(settings, plan)
    like = next(module.parameters())
    sgd = optimizer(module, settings, rates)
    curve = [Epoch(**line) for line in state.load(module, sgd)]
    batches = Batches(
        images,
        batch_size=max(1, len(_shares(list(range(settings.batch_size)), settings)[0])),
        workers=settings.workers,
        pin=like.device.type == "cuda",
    )
    shown = None if rank() == 0 else StringIO()
    with Progress(label, plan.steps - len(curve) * plan.steps_per_epoch, unit="step", stream=shown) as progress:
        for epoch in range(len(curve), plan.epochs):
            order = order_of(len(images), order_seed, epoch)[: plan.steps_of(epoch) * settings.batch_size]
            parts = _shares(order, settings)
            local = batches(epoch, [index for part in parts for index in part])
            loss_sum, hits = 0.0, 0.0
            for number, part in enumerate(parts):
                step = epoch * plan.steps_per_epoch + number
                whole = min(settings.batch_size, len(order) - number * settings.batch_size)
                factor = plan.factor(step)
                for group in sgd.param_groups:
                    group["lr"] = group["initial_lr"] * factor
                inputs, labels = _fetch(local, len(part), settings, like)
                loss, right = _gradient(module, inputs, labels, whole, settings)
                if not math.isfinite(loss):
                    raise _diverged(
                        f"the loss is {loss} at epoch {epoch + 1}, step {number + 1}", rates.lr * factor, settings
                    )
                sgd.step()
                loss_sum, hits = loss_sum + loss * whole, hits + right
                progress.step(1, epoch=epoch + 1, lr=rates.lr * factor, loss=loss)
            # Where BN runs over parts of the batch, the main process alone has seen the statistics that count.
            for buffer in module.buffers():
                from_main(buffer)
            if not torch.stack([value.isfinite().all() for value in module.state_dict().values()]).all():
                raise _diverged(
                    f"weights or running statistics are not finite at the end of epoch {epoch + 1}",
                    rates.lr * factor,
                    settings,
                )
            done = len(order)
            curve.append(Epoch(epoch + 1, rates.lr * factor, loss_sum / done, 100.0 * hits / done))
            state.save(module, sgd, [asdict(line) for line in curve], last=epoch + 1 == plan.epochs)
    return curve


def _diverged(what: str, lr: float, settings: FinetuneSettings) -> Diverged:
    return Diverged(
        f"fine-tuning: {what} with lr {lr:g} (classifier {lr * settings.head_lr_factor:g}): too large for batch "
        f"{settings.batch_size}"
    )


def optimizer(module: nn.Module, settings: FinetuneSettings, rates: Rates) -> torch.optim.SGD:
    """SGD over all parameters; the classifier has a learning rate of its own."""
    backbone = [parameter for name, parameter in module.named_parameters() if not name.startswith("fc.")]
    classifier = [parameter for name, parameter in module.named_parameters() if name.startswith("fc.")]
    groups = [
        {"params": backbone, "lr": rates.lr, "initial_lr": rates.lr},
        {
            "params": classifier,
            "lr": rates.lr * settings.head_lr_factor,
            "initial_lr": rates.lr * settings.head_lr_factor,
        },
    ]
    return torch.optim.SGD(
        groups,
        lr=rates.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=rates.weight_decay,
    )


def order_of(n: int, seed: int, epoch: int) -> list[int]:
    """The order of the n training images in an epoch (0 is the first)."""
    generator = torch.Generator().manual_seed(stream(seed, epoch))
    permutation: list[int] = torch.randperm(n, generator=generator).tolist()
    return permutation


def _shares(order: list[int], settings: FinetuneSettings) -> list[list[int]]:
    return shares.of_batches(order, batch=settings.batch_size, unit=settings.norm_images or 1, rank=rank(), size=size())


def _check_shares(settings: FinetuneSettings, plan: Plan) -> None:
    unit = settings.norm_images or 1
    units = math.ceil(min(settings.batch_size, plan.images) / unit)
    if units < size():
        raise UserError(
            expected=f"at most {units} processes, whose shares of a batch of {settings.batch_size} hold {unit} images",
            found=str(size()),
            where="--processes",
        )
    rest = plan.images % settings.batch_size % (settings.norm_images or settings.batch_size)
    if 1 in (rest, settings.batch_size) and settings.crop <= 32:
        # The last map of a ResNet is a 32nd of its input.
        raise UserError(
            expected="more than one value a channel in every batch normalisation",
            found="a last batch of one image whose last map has one pixel",
            where="settings.batch_size",
            cure=f"choose another than {settings.batch_size} for these {plan.images} images, or a larger crop",
        )


def _fetch(
    local: Iterator[tuple[Tensor, Tensor]], count: int, settings: FinetuneSettings, like: Tensor
) -> tuple[Tensor, Tensor]:
    """This process's share of a batch, where and as the weights are; all hear of an image that one cannot decode."""
    inputs, labels = torch.zeros(0, 3, settings.crop, settings.crop), torch.zeros(0, dtype=torch.int64)
    fault: UserError | None = None
    if count:
        try:
            inputs, labels = next(local)
        except UserError as error:
            fault = error
    if total(torch.tensor(float(fault is not None), device=like.device)).item():
        together(lambda: _raise(fault))
    return inputs.to(like.device, like.dtype, non_blocking=True), labels.to(like.device, non_blocking=True)


def _raise(fault: UserError | None) -> None:
    if fault is not None:
        raise fault


def _gradient(
    module: nn.Module, inputs: Tensor, labels: Tensor, whole: int, settings: FinetuneSettings
) -> tuple[float, float]:
    """Put the gradient of the global batch's mean loss into the parameters; that loss, and how many were right."""
    module.zero_grad(set_to_none=True)
    half = settings.precision == "bf16"
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
        logits = module(inputs)
    logits = logits.float() if half else logits
    loss = F.cross_entropy(logits, labels, reduction="sum") / whole
    loss.backward()  # type: ignore[no-untyped-call]
    right = (logits.argmax(dim=1) == labels).sum()
    facts = torch.stack([loss.detach(), right.to(loss.dtype)])
    if size() > 1:
        parameters = list(module.parameters())
        flat = torch.cat([*(_gradient_of(parameter) for parameter in parameters), facts])
        sizes = [*(parameter.numel() for parameter in parameters), len(facts)]
        *gradients, facts = torch.split(total(flat), sizes)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
    mean, count = facts.tolist()
    return mean, count


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    """Flat; zero where this process had no image."""
    return parameter.new_zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten()
