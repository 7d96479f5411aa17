"""A sweep of many linear heads in one pass, held against one head alone: time, and equality.

    python -m benchmarks.heads [--heads 50] [--classes 1000] [--batch 256] [--steps 3] [--arch resnet50] [--crop 224]

One run, the same batches. Per step, alternating between the two so that a slow moment of the machine meets both:
- one head and many heads on features alone (the honest bound: nothing hides the heads' own cost);
- the frozen backbone on a batch of pictures of noise, as the training pass runs it. Decoding is left out: it costs both
  the same and would only flatter the ratio.
The ratio that a sweep costs is (backbone + many) / (backbone + one). Equality: every head of a sweep, after an epoch,
against the same head trained alone by torch.optim.SGD and autograd.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from converters.families import random_backbone
from evaluators.features.layers import POOLED
from evaluators.features.network import prepare
from evaluators.linear.heads import Heads, start

BOUND = 1e-4
"""Allowed |Δ| of a weight after an epoch, relative to the head's largest weight where that exceeds 1."""


def main() -> None:
    """Measure, check and print; one line of JSON at the end.

    Raises:
        SystemExit: if a head of the sweep is not the head trained alone.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=50)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="timed steps; the median counts")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--crop", type=int, default=224, help="pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)

    module = random_backbone(args.arch, 0).module().to(device).eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(args.batch, 3, args.crop, args.crop, generator=generator)
    pictures = pictures.to(device).contiguous(memory_format=torch.channels_last)
    network = prepare(module, None, (POOLED,), precision="fp32", sample=pictures[:8])
    dim = network.dims[0]
    labels = torch.randint(args.classes, (args.batch,), generator=generator).to(device)
    (features,) = network(pictures)
    one, many = heads(1, dim, args.classes, device), heads(args.heads, dim, args.classes, device)

    seconds: dict[str, list[float]] = {"backbone": [], "one": [], "many": []}
    actions: dict[str, Callable[[], object]] = {
        "backbone": lambda: network(pictures),
        "one": lambda: one.step(features, labels),
        "many": lambda: many.step(features, labels),
    }
    for step in range(args.steps + 1):
        for name, action in actions.items():
            found = timed(action, device)
            if step:  # the first is for warming up
                seconds[name].append(found)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = (median["backbone"] + median["many"]) / (median["backbone"] + median["one"])
    difference = largest_difference(device)

    print(f"{args.arch} at {args.crop} px, batch {args.batch}, {args.classes} classes, {args.heads} heads, on {device}")
    print(f"{'backbone':26} {median['backbone']:8.3f} s a step")
    print(f"{'one head':26} {median['one']:8.3f} s a step")
    print(f"{f'{args.heads} heads':26} {median['many']:8.3f} s a step ({median['many'] / median['one']:.1f} x one)")
    print(f"{'a sweep in one pass':26} {ratio:8.3f} x one head (aim: 1.15 at most)")
    print(f"{'a sweep head by head':26} {args.heads:8d} x one head")
    print(f"{'largest difference':26} {difference:8.1e} between a head of the sweep and the same head alone")
    print(json.dumps({**vars(args), "seconds": median, "ratio": ratio, "largest_difference": difference}))
    if difference > BOUND:
        raise SystemExit(f"a head of the sweep differs from the head trained alone by more than {BOUND:g}")


def heads(count: int, dim: int, classes: int, device: torch.device) -> Heads:
    """Heads with learning rates from 0.1 to 30 and two weight decays."""
    grid = [(0.1 * 300 ** (number / max(1, count - 1)), (0.0, 1e-4)[number % 2]) for number in range(count)]
    weight = start(dim, classes, 0.01, 0).expand(count, -1, -1).to(device)
    return Heads(weight, lr=[lr for lr, _ in grid], weight_decay=[decay for _, decay in grid], momentum=0.9)


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds that an action takes, all of its work on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - before


def largest_difference(device: torch.device, count: int = 50, dim: int = 128, classes: int = 20) -> float:
    """Over all heads of a sweep and an epoch of 40 batches, relative to each head's largest weight above 1."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(classes, dim, generator=generator)
    batches: list[tuple[Tensor, Tensor]] = []
    for _ in range(40):
        labels = torch.randint(classes, (64,), generator=generator)
        values = (centres[labels] + torch.randn(64, dim, generator=generator)).relu() / 4
        batches.append((values.to(device), labels.to(device)))
    sweep = heads(count, dim, classes, device)
    for values, labels in batches:
        sweep.step(values, labels)
    worst = 0.0
    single = heads(count, dim, classes, device)
    for number in range(count):
        fc = nn.Linear(dim, classes).to(device)
        with torch.no_grad():
            fc.weight.copy_(single.weight[number])
            fc.bias.zero_()
        decay = (0.0, 1e-4)[number % 2]
        sgd = torch.optim.SGD(fc.parameters(), lr=single.lr[number], momentum=0.9, weight_decay=decay)
        for values, labels in batches:
            sgd.zero_grad()
            nn.functional.cross_entropy(fc(values), labels).backward()
            sgd.step()
        difference = float((fc.weight.detach() - sweep.weight[number]).abs().max())
        worst = max(worst, difference / max(1.0, float(fc.weight.detach().abs().max())))
    return worst


if __name__ == "__main__":
    main()
