"""Pretraining beside the reference's own way, in one run: `python -m benchmarks.pretrain`.

(a) the whole step; (b) everything but the encoders; (c) the input pipeline, per core; (d) end to end against synthetic
images. The two sides of a ratio alternate in one process, and the median of each counts, so that a busy machine spoils
both alike.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import input_pipeline
from benchmarks.reference_step import ReferenceStep
from converters.distributed import World
from pretrain.input.augment import finisher, view_maker
from pretrain.input.images import open_source
from pretrain.input.loading import Loader
from pretrain.mechanisms import build
from pretrain.meter import Meter
from pretrain.model import MoCo
from pretrain.recipes import MOCO_V2, Recipe
from pretrain.step import Step


def alternating(sides: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            _wait(device)
            began = time.perf_counter()
            side()
            _wait(device)
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def made(recipe: Recipe, device: torch.device) -> MoCo:
    """The recipe's model, the same each time."""
    torch.manual_seed(0)
    model = build(recipe, images=1, bn_groups=1).to(device)
    assert isinstance(model, MoCo)
    return model


def reference(recipe: Recipe, device: torch.device) -> ReferenceStep:
    """The reference's step from the same state."""
    model = made(recipe, device)
    settings = {"m": recipe.momentum, "T": recipe.temperature, "lr": recipe.base_lr}
    return ReferenceStep(model.encoder_q, model.encoder_k, model.queue, **settings)


def views(recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Synthetic images and their numbers."""
    N, S = recipe.batch_size, recipe.image_size
    im_q, im_k = torch.randn(2, N, 3, S, S, generator=torch.Generator().manual_seed(1)).to(device)
    return im_q, im_k, torch.arange(N, device=device)


def whole_step(
    recipe: Recipe, device: torch.device, rounds: int, variants: dict[str, tuple[str, ...]]
) -> dict[str, float]:
    """(a) Seconds of a step, of the reference and of ours under each variant's settings."""
    im_q, im_k, numbers = views(recipe, device)
    theirs = reference(recipe, device)
    generator = torch.Generator()
    sides: dict[str, Callable[[], object]] = {"reference": lambda: theirs(im_q, im_k)}
    for name, sets in variants.items():
        step = Step(made(recipe, device), recipe.overridden(sets))
        sides[name] = lambda step=step: step(im_q, im_k, numbers, generator)
    return alternating(sides, rounds, device)


def arithmetic_bound(recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Seconds of a step's convolutions and products at the rate of a large matrix product, for each precision."""
    im_q, im_k, numbers = views(recipe, device)
    step = Step(made(recipe, device), recipe)
    with FlopCounterMode(display=False) as counter:
        step(im_q, im_k, numbers, torch.Generator())
    size = 2048 if device.type == "cpu" else 8192
    bounds = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.randn(size, size, device=device, dtype=dtype)
        seconds = alternating({"product": partial(torch.mm, matrix, matrix)}, 5, device)["product"]
        bounds[f"bound, {name}"] = counter.get_total_flops() * seconds / (2 * size**3)
    return bounds


class Cheap(nn.Module):
    """An encoder that costs nothing, and still has all the parameters that the momentum update must move."""

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed = nn.Linear(3, dim)

    def forward(self, images: Tensor) -> Tensor:
        """N×3×H×W -> N×D, from the first pixel."""
        return self.embed(images[:, :, 0, 0])


def without_encoders(recipe: Recipe, device: torch.device, rounds: int) -> dict[str, float]:
    """(b) Seconds of loss, accuracy, queue, momentum update and shuffling."""
    im_q, im_k, numbers = views(recipe, device)
    model = made(recipe, device)
    cheap_q = Cheap(model.encoder_q, recipe.dim).to(device)
    cheap_k = copy.deepcopy(cheap_q).requires_grad_(False)
    model.encoder_q, model.encoder_k = copy.deepcopy(cheap_q), copy.deepcopy(cheap_k)
    settings = {"m": recipe.momentum, "T": recipe.temperature, "lr": recipe.base_lr}
    theirs = ReferenceStep(cheap_q, cheap_k, model.queue.clone(), **settings)
    ours, generator = Step(model, recipe), torch.Generator()
    sides = {"reference": lambda: theirs(im_q, im_k), "ours": lambda: ours(im_q, im_k, numbers, generator)}
    return alternating(sides, rounds, device)


def end_to_end(recipe: Recipe, device: torch.device, images: Path, steps: int) -> dict[str, float]:
    """(d) Seconds of a step with images from disk, and with synthetic ones, the queue of loaded batches once empty."""
    step = Step(made(recipe, device), recipe)
    im_q, im_k, numbers = views(recipe, device)
    finish, generator = finisher(recipe), torch.Generator()
    loader = Loader(open_source(images), recipe, World(0, 1, 1, device), view_maker(recipe, 0), seed=0)

    def synthetic() -> None:
        meter = Meter()
        for number in range(steps):
            meter.push(number, step(im_q, im_k, numbers, generator), stop=False, faults=0)

    batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())

    def real() -> None:
        meter = Meter()
        for number, batch in enumerate(itertools.islice(batches, steps)):
            im_q, im_k = finish(batch.views, device)
            measured = step(im_q, im_k, batch.number.to(device, non_blocking=True), generator)
            meter.push(number, measured, stop=False, faults=0)

    for _ in range(2 * loader.workers // steps + 1):
        real()  # an epoch is not begun anew between the rounds, so this empties the queue of the loading processes once
    seconds = alternating({"synthetic": synthetic, "end to end": real}, 2, device)
    return {name: value / steps for name, value in seconds.items()}


def show(title: str, seconds: dict[str, float], images: int = 0) -> None:
    """A table, each line beside the first."""
    first = next(iter(seconds.values()))
    print(f"\n{title}")
    for name, value in seconds.items():
        rate = f"{images / value:10.1f} images/s" if images else ""
        print(f"  {name:<28}{1000 * value:10.1f} ms{rate}{first / value:8.2f}×")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--queue", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="abcd", help="which parts, as 'ab'")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    card = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{card}, {args.threads} threads, torch {torch.__version__}, torchvision {torchvision.__version__}")
    sets = (f"arch={args.arch}", f"batch_size={args.batch}", f"image_size={args.size}", f"queue_size={args.queue}")
    recipe = MOCO_V2.overridden((*sets, "bn_groups=1"))
    fast = ("precision=bf16", "channels_last=true")
    if "a" in args.only:
        variants: dict[str, tuple[str, ...]] = {
            "ours, fp32": (),
            "ours, fp32, channels-last": ("channels_last=true",),
            "ours, bf16, channels-last": fast,
        }
        if args.compile:
            variants["ours, bf16, compiled"] = (*fast, "compile=true")
        seconds = whole_step(recipe, device, args.rounds, variants) | arithmetic_bound(recipe, device)
        show(f"(a) a step of {args.batch} images, {args.arch}, {args.size} px, K {args.queue}", seconds, args.batch)
    if "b" in args.only:
        for batch in sorted({args.batch, 256}):
            sized = recipe.overridden((f"batch_size={batch}", "image_size=32"))
            show(f"(b) all but the encoders, {batch} images", without_encoders(sized, device, 2 * args.rounds))
    if "c" in args.only:
        input_pipeline.main([])
    if "d" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            workers = 0 if device.type == "cpu" else os.cpu_count() or 1
            images = input_pipeline.make_images(Path(folder), max(8, 4 * workers) * args.batch)
            for pipeline in ("torchvision", "batched"):
                chosen = recipe.overridden((*fast, f"pipeline={pipeline}", f"workers={workers}"))
                seconds = end_to_end(chosen, device, images, steps=max(4, 2 * workers))
                share = 100 * seconds["synthetic"] / seconds["end to end"]
                show(f"(d) {pipeline} input: {share:.0f} % of the step's ceiling", seconds, args.batch)


if __name__ == "__main__":
    main()
