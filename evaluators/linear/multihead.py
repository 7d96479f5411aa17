"""The task `linear-multihead`: many learning rates, weight decays and seeds in one pass over the augmented images.

The winner is chosen on a held-out part of the training images; the validation images are looked at once, at the end.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.distributed import gather_values, rank, together
from converters.files import whole
from evaluators import by_products
from evaluators.datasets import classification
from evaluators.datasets.labels import hold_out, one_class_an_image
from evaluators.features.compute import Features, notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, Metric, Outcome
from evaluators.linear.batches import FeatureBatches
from evaluators.linear.heads import Heads, start
from evaluators.linear.resume import Unfinished
from evaluators.linear.task import augmented_view, small_batch
from evaluators.linear.training import Diverged, train
from evaluators.settings.linear import MultiheadSettings

HEADS = "heads.csv"
"""One line a head: its setting, its accuracies, whether and when it diverged."""
CURVE = "curve.csv"
"""One line an epoch and head."""


@dataclass(frozen=True)
class Setting:
    """Of one head."""

    lr: float
    weight_decay: float
    seed: int

    def __str__(self) -> str:
        return f"lr {self.lr:g}, weight decay {self.weight_decay:g}, seed {self.seed}"


def settings_of(settings: MultiheadSettings) -> list[Setting]:
    """The H heads, by learning rate, then weight decay, then seed."""
    grid = itertools.product(sorted(settings.lrs), sorted(settings.weight_decays), settings.head_seeds)
    return [Setting(*values) for values in grid]


def heads_of(settings: MultiheadSettings, feature_dim: int, num_classes: int, seed: int, device: torch.device) -> Heads:
    """The heads at their start; heads of the same seed start from the same weights."""
    grid = settings_of(settings)
    first = start(feature_dim, num_classes, settings.init_std, seed, settings.head_seeds)
    return Heads(
        first[[settings.head_seeds.index(each.seed) for each in grid]].to(device),
        lr=[each.lr for each in grid],
        weight_decay=[each.weight_decay for each in grid],
        momentum=settings.momentum,
    )


@dataclass(frozen=True)
class _Result:
    """What is known of H heads at the end; accuracies in percent."""

    grid: list[Setting]
    diverged: Diverged
    reference: int
    chosen: list[float]
    """Top-1 over the held-out images."""
    top1: list[float]
    top5: list[float]
    held_out: int
    """Images on which the winner is chosen."""

    @property
    def sound(self) -> list[int]:
        """The heads that did not diverge."""
        return [head for head in range(len(self.grid)) if head not in self.diverged.heads]

    @property
    def winner(self) -> int:
        """The best on the held-out images; of equals the lowest learning rate, then the lowest weight decay."""
        return max(self.sound, key=lambda head: self.chosen[head])


def evaluate(job: Job) -> Outcome:
    """Run a protocol with many heads; writes `heads.csv`, `curve.csv` and the by-products to the job's folder.

    The metrics are `top1` and `top5` of the winner and `top1_reference` of the reference setting (its first seed), in
    percent over the validation images, and `top1_held_out` of the winner over the held-out images. An evaluation that
    was cut off goes on behind the last epoch that was done.

    Raises:
        UserError: for a data set that is no image folder, a batch that the processes do not divide, or no class that
            has two training images.
        CheckFailed: if the receipt does not hold, or every head diverged.
    """
    settings = job.protocol.settings
    assert isinstance(settings, MultiheadSettings), settings.task
    data = classification.read(job.data)
    one_class_an_image(data)
    kept, out = hold_out(data.train, settings.held_out, settings.held_out_seed, len(data.classes))
    train_view = augmented_view(job, settings)
    frozen = freeze(job.backbone, job.device, [train_view, view_of(job, settings)])
    (held_out,) = extract(job, frozen, data.train.take(out), settings)
    (val,) = extract(job, frozen, data.val, settings)
    held_out_images, val_images = _on(job.device, held_out), _on(job.device, val)
    batches = FeatureBatches(
        frozen,
        data.train.take(kept),
        train_view,
        seed=job.seed,
        settings=settings,
        device=job.device,
    )
    grid = settings_of(settings)
    heads = heads_of(settings, val.values.shape[1], len(data.classes), job.seed, job.device)

    unfinished = Unfinished(job, data.card.fingerprint)
    facts = unfinished.load(heads.state()) or {"rows": [], "epochs": 0, "diverged": []}
    rows: list[list[Any]] = facts["rows"]
    diverged = Diverged(dict(facts["diverged"]))
    for epoch in train(
        heads,
        batches,
        epochs=settings.epochs,
        milestones=settings.milestones,
        n=len(kept),
        seed=job.seed,
        first=facts["epochs"],
        diverged=diverged,
        label="heads",
    ):
        top1, _ = _accuracies(heads, *held_out_images)
        alive = (head for head in range(len(heads)) if head not in diverged.heads)
        rows.extend([epoch.number, head, epoch.loss[head], epoch.train_top1[head], top1[head]] for head in alive)
        facts = {"rows": rows, "epochs": epoch.number, "diverged": list(diverged.heads.items())}
        unfinished.save(heads.state(), facts, lambda: _write_curve(job.workdir / CURVE, rows, grid))
    receipt = frozen.still_frozen()

    chosen, (top1, top5) = _accuracies(heads, *held_out_images)[0], _accuracies(heads, *val_images)
    reference = grid.index(Setting(settings.lr, settings.weight_decay, settings.head_seeds[0]))
    # One process's numbers: equal heads in all of them are no reason to trust the last bit.
    result = gather_values(_Result(grid, diverged, reference, chosen, top1, top5, len(out)))[0]
    ranked = heads.rank(val_images[0], result.winner).cpu().numpy()
    by_products.write(job.workdir, data, heads.logits(val_images[0], result.winner), {"winner": ranked[:, 0]})
    together(lambda: _write_heads(job.workdir / HEADS, result) if rank() == 0 else None)

    metrics = [("top1", result.top1[result.winner], len(data.val)), ("top5", result.top5[result.winner], len(data.val))]
    if reference in result.sound:
        metrics.append(("top1_reference", result.top1[reference], len(data.val)))
    metrics.append(("top1_held_out", result.chosen[result.winner], len(out)))
    notes = [*notes_of(held_out, val), *_notes(settings, result), *small_batch(settings, len(kept))]
    single = int((np.bincount(data.train.labels) == 1).sum())
    if single:
        notes.append(f"{single} classes with one training image: it was trained on, nothing of them is held out")
    return Outcome(
        metrics=tuple(
            Metric(name=name, value=value, unit="%", higher_is_better=True, n=n) for name, value, n in metrics
        ),
        receipt=receipt,
        dataset=data.card,
        notes=tuple(notes),
    )


def _on(device: torch.device, features: Features) -> tuple[Tensor, Tensor]:
    return features.tensor(device), torch.from_numpy(features.labels).to(device)


def _accuracies(heads: Heads, features: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Top-1 and top-5 of every head, percent."""
    places = heads.places(features, labels)
    top1, top5 = ((100.0 * (places < k).double().mean(dim=0)).tolist() for k in (1, 5))
    return top1, top5


def _notes(settings: MultiheadSettings, result: _Result) -> Iterator[str]:
    grid, winner = result.grid, result.winner
    yield f"winner of {len(grid)} heads: {grid[winner]}; chosen on {result.held_out} held-out training images"
    same = [
        head
        for head in result.sound
        if (grid[head].lr, grid[head].weight_decay) == (grid[winner].lr, grid[winner].weight_decay)
    ]
    if len(same) > 1:
        found = ", ".join(f"{result.top1[head]:.2f}" for head in same)
        yield f"top-1 of the winner's learning rate and weight decay over {len(same)} seeds: {found}"
    if len(settings.lrs) > 2 and grid[winner].lr in (min(settings.lrs), max(settings.lrs)):
        yield f"the winner's learning rate {grid[winner].lr:g} is at the edge of the grid: try a wider one"
    if len(result.sound) < len(grid):
        yield f"{len(grid) - len(result.sound)} of {len(grid)} heads diverged: {HEADS} says which and when"
    if result.reference not in result.sound:
        yield f"the reference head ({grid[result.reference]}) diverged: {result.diverged.heads[result.reference]}"


def _write_curve(path: Path, rows: list[list[Any]], grid: list[Setting]) -> None:
    lines = (
        (epoch, head, *_words(grid[head]), f"{loss:.6f}", f"{train_top1:.3f}", f"{held_out:.3f}")
        for epoch, head, loss, train_top1, held_out in rows
    )
    _write(path, ("epoch", "head", "lr", "weight_decay", "seed", "loss", "train_top1", "held_out_top1"), lines)


def _write_heads(path: Path, result: _Result) -> None:
    lines = []
    for head, setting in enumerate(result.grid):
        found = [f"{values[head]:.3f}" for values in (result.chosen, result.top1, result.top5)]
        role = " ".join(
            word for word, index in (("winner", result.winner), ("reference", result.reference)) if index == head
        )
        measured = found if head in result.sound else [""] * 3
        lines.append((head, *_words(setting), *measured, role, result.diverged.heads.get(head, "")))
    names = ("head", "lr", "weight_decay", "seed", "held_out_top1", "val_top1", "val_top5", "role", "diverged")
    _write(path, names, lines)


def _words(setting: Setting) -> tuple[str, str, int]:
    return f"{setting.lr:g}", f"{setting.weight_decay:g}", setting.seed


def _write(path: Path, names: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(names)
        table.writerows(lines)
