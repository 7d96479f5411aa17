"""`--estimate`: what a run will take, from a short timed run on this device and a stated model of communication.

The model: a step of W devices takes

    max(images / W / rate of the step + bytes / bandwidth + latency · log2 W,  images / W / rate of the input)

Communication overlaps with nothing, which is pessimistic. Loading processes work beside the step; where there are none,
the two are added. Each device is taken to have as many loading processes as the measured one. It sends and receives
2 (W-1)/W times the gradients (ring all-reduce), (W-1)/W of its images (the shuffling exchange) and (W-1) times its keys
(for the queue).
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from converters import distributed
from converters.distributed import World
from converters.errors import UserError
from converters.progress import clock
from pretrain import mechanisms
from pretrain.input.augment import finisher, view_maker
from pretrain.input.images import open_source
from pretrain.input.loading import Batch, Loader, epoch_images
from pretrain.plan import checked
from pretrain.recipes import Recipe
from pretrain.step import Step

BANDWIDTH = 12.5e9
"""Bytes a second between devices, for each: a network of 100 Gbit/s. NVLink within a machine is much faster."""
LATENCY = 30e-6
"""Seconds for each doubling of the devices."""
DEVICES = (1, 8, 64, 512)
_STEPS = 3
_WARM_UP = 2


@dataclass(frozen=True)
class Measured:
    """What the short run showed on one device."""

    images: int
    """Of a pass, which is one BN group of the recipe."""
    step_rate: float
    """Images a second through forward, backward and update, from memory."""
    input_rate: float
    """Images a second from disk to two finished views."""
    peak_memory: int
    """Bytes: of a GPU what was allocated, of a CPU process all that it holds."""
    gradients: int
    """Bytes of a step's gradients."""
    workers: int = 0
    """Loading processes; with none, loading and computing take turns."""


@dataclass(frozen=True)
class Forecast:
    """A number of devices."""

    devices: int
    batch_size: int
    lr: float
    steps: int
    hours: float
    communication: float
    """Share of a step's time, 0 to 1."""
    limit: str
    """What a step waits for: `step` or `input`."""


def measure(recipe: Recipe, data: str | Path, device: torch.device) -> Measured:
    """Time a few steps, and a few batches of images."""
    source = open_source(data)
    N = _group(recipe)
    chosen = recipe.model_copy(update={"batch_size": N, "bn_groups": 1, "accumulate": 1})
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(0)
    mechanism = mechanisms.build(chosen, images=source.count or 1, bn_groups=1).to(device)
    step = Step(mechanism, chosen)
    im_q, im_k = torch.randn(2, N, 3, recipe.image_size, recipe.image_size, device=device)
    numbers, generator = torch.arange(N, device=device) % (source.count or 1), torch.Generator()
    seconds = _timed(lambda: step(im_q, im_k, numbers, generator), device)

    loader = Loader(source, chosen, World(0, 1, 1, device), view_maker(chosen, 0), seed=0)
    finish = finisher(chosen)
    batches: Iterator[Batch] = iter(())

    def one_batch() -> object:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = loader.epoch(0)
            batch = next(batches)
        return finish(batch.views, device)

    input_seconds = _timed_input(one_batch, loader.workers, device)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()
    gradients = sum(value.numel() * value.element_size() for value in mechanism.parameters() if value.requires_grad)
    return Measured(N, N / seconds, N / input_seconds, memory, gradients, loader.workers)


def forecast(recipe: Recipe, images: int, measured: Measured, devices: int) -> Forecast:
    """The model above; a device has at least one BN group, so many devices make a larger batch with a higher lr.

    Args:
        recipe: what is trained.
        images: of an epoch.
        measured: on one device.
        devices: W.
    """
    batch_size = max(recipe.batch_size, devices * measured.images)
    share, others = batch_size / devices, (devices - 1) / devices
    sizes = {"fp32": 4, "bf16": 2, "fp16": 2}
    image_bytes = 3 * recipe.image_size**2 * sizes[recipe.precision]
    shuffled = 0 if recipe.mechanism == "memory-bank" else others * share * image_bytes
    keys = (devices - 1) * share * recipe.dim * 4
    communication = (2 * others * measured.gradients + shuffled + keys) / BANDWIDTH + LATENCY * math.log2(devices)
    computing, loading = share / measured.step_rate + communication, share / measured.input_rate
    steps = recipe.epochs * (images // batch_size)
    seconds = max(computing, loading) if measured.workers else computing + loading
    limit = "input" if loading > computing else "step"
    lr = recipe.lr * batch_size / 256
    return Forecast(devices, batch_size, lr, steps, steps * seconds / 3600, communication / seconds, limit)


def report(recipe: Recipe, data: str | Path, device: torch.device | None = None) -> list[str]:
    """The lines that `--estimate` shows.

    Raises:
        UserError: for wrong settings or input, or in a group of several processes.
    """
    with distributed.process_group(device) as world:
        if world.size > 1:
            raise UserError(
                expected="one process, from which the estimate for more follows",
                found=str(world.size),
                cure="run --estimate without torchrun or --processes",
            )
        alone = recipe.model_copy(update={"accumulate": 1})
        plan = checked(alone, data, Path(), 0, world)
        images = epoch_images(plan.images, recipe)
        measured = measure(recipe, data, world.device)
        total = recipe.epochs * (images // recipe.batch_size) * recipe.batch_size
        lines = [
            f"{recipe.id} on {images} images an epoch, {recipe.epochs} epochs: {total} images",
            f"measured on {_named(world.device)}, {measured.images} images a pass, {recipe.precision}, "
            f"{recipe.pipeline} input: step {measured.step_rate:.1f} images/s, "
            f"input {measured.input_rate:.1f} images/s ({measured.workers} loading processes)",
            _memory(recipe, measured),
            f"model: communication overlaps with nothing; {BANDWIDTH / 1e9:g} GB/s a device, "
            f"{LATENCY * 1e6:g} µs a doubling",
            f"{'devices':>8}{'batch':>8}{'lr':>9}{'steps':>10}{'h:mm:ss':>12}{'communication':>15}  limited by",
        ]
        for devices in DEVICES:
            row = forecast(recipe, images, measured, devices)
            if not row.steps:
                lines.append(f"{devices:>8}{row.batch_size:>8}  the batch is larger than an epoch")
                continue
            lines.append(
                f"{devices:>8}{row.batch_size:>8}{row.lr:>9.4g}{row.steps:>10}{clock(3600 * row.hours):>12}"
                f"{100 * row.communication:>14.1f}%  {row.limit}"
            )
        return lines


def _memory(recipe: Recipe, measured: Measured) -> str:
    gibibytes = f"peak memory {measured.peak_memory / 2**30:.1f} GiB with {measured.images} images a pass"
    parts = recipe.bn_groups
    if parts == recipe.accumulate:
        return gibibytes
    held = recipe.batch_size // recipe.accumulate
    return f"{gibibytes}; one device would pass {held} at a time, or {measured.images} with --set accumulate={parts}"


def _group(recipe: Recipe) -> int:
    """Images of a BN group: what one of the papers' devices has."""
    return recipe.batch_size // recipe.bn_groups


def _timed(action: Callable[[], object], device: torch.device) -> float:
    """Median seconds."""
    times = []
    for number in range(_WARM_UP + _STEPS):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= _WARM_UP:
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def _timed_input(one_batch: Callable[[], object], workers: int, device: torch.device) -> float:
    """Mean seconds of a batch, once those are gone that the loading processes had made beforehand."""
    ahead = 2 * workers  # torch's prefetch_factor is 2
    for _ in range(_WARM_UP + ahead):
        one_batch()
    batches = max(_STEPS, ahead)
    began = time.perf_counter()
    for _ in range(batches):
        one_batch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / batches


def _resident() -> int:
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"a CPU with {torch.get_num_threads()} threads"
