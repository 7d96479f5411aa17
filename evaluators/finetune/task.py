"""The task `finetune`: backbone and linear classifier, tuned end to end on augmented images.

The loss is the cross-entropy. Shapes: N images, C classes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters import distributed, files
from converters.errors import CheckFailed
from converters.families.source import RANDOM
from converters.progress import Progress
from converters.receipt import Receipt
from evaluators.by_products import margins
from evaluators.datasets import classification, train_list
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.datasets.labels import hold_out, one_class_an_image
from evaluators.datasets.metrics import METRICS
from evaluators.features.extract import view_of
from evaluators.finetune.model import network
from evaluators.finetune.state import Progressed, Tried
from evaluators.finetune.train import Diverged, Epoch, Rates, train
from evaluators.images import Batches, Images, Transform, random_view, stream
from evaluators.job import Job, Metric, Outcome
from evaluators.mistakes import write_mistakes
from evaluators.predictions import accuracy, rank, write_predictions
from evaluators.settings.finetune import FinetuneSettings

CURVE, GRID = "finetune.csv", "finetune_grid.csv"
_INIT, _ORDER, _AUGMENT, _HOLD_OUT = range(4)
"""The streams of random numbers of a seed."""


def evaluate(job: Job) -> Outcome:
    """Run a fine-tuning protocol; writes `finetune.csv` (a line an epoch) and the by-products to the job's folder.

    Where pairs of learning rate and weight decay are tried, `finetune_grid.csv` has what each reached; one that
    diverges counts as 0 %. The metrics are `top1`, `top5` and `mean_per_class` behind the last step, in percent over
    the validation images. An evaluation that was cut off goes on behind the last epoch that was saved.

    Raises:
        UserError: for a data set or list that is not what it should be, or too many processes.
        CheckFailed: if the receipt does not hold, or every pair diverges, or the training with the chosen one does.
    """
    settings = job.protocol.settings
    assert isinstance(settings, FinetuneSettings), settings.task
    data = classification.read(job.data) if settings.train_list is None else train_list.read(settings, job.data)
    one_class_an_image(data)
    rates = grid(job, settings)
    done = Progressed(job, data.card.fingerprint)
    tuning = _Tuning(job, settings, data, done)
    best, notes = (rates[0], []) if len(rates) == 1 else _choose(tuning, rates)
    tuned = tuning.run(data.train, data.val, best, "fine-tuning")

    def write() -> None:
        if distributed.rank() == 0:
            _write(job, CURVE, [field.name for field in fields(Epoch)], [astuple(line) for line in tuned.curve])
            write_predictions(job.workdir, data, {"last": tuned.ranked[:, 0]})
            write_mistakes(job.workdir, data, tuned.ranked[:, 0], tuned.margins)

    distributed.together(write)
    labels = data.val.labels
    values = {
        "top1": accuracy(tuned.ranked, labels, 1),
        "top5": accuracy(tuned.ranked, labels, 5),
        "mean_per_class": mean_per_class(tuned.ranked[:, 0], labels),
    }
    return Outcome(
        metrics=tuple(
            Metric(name=name, value=value, unit="%", higher_is_better=True, n=len(labels))
            for name, value in values.items()
        ),
        receipt=tuned.receipt,
        dataset=data.card,
        notes=(*notes, *_notes(job, settings, data, rates)),
    )


def grid(job: Job, settings: FinetuneSettings) -> list[Rates]:
    """All pairs of learning rate and weight decay, in the order of the settings."""
    lrs = settings.lr
    if settings.lr_random_init is not None and job.backbone.origin.family == RANDOM:
        lrs = (settings.lr_random_init,)
    return [Rates(lr, decay / lr if settings.decay_over_lr else decay) for lr in lrs for decay in settings.weight_decay]


def mean_per_class(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Mean over the classes that have images of the accuracy in percent on each: N predicted classes, N labels."""
    images = np.bincount(labels)
    right = np.bincount(labels[predicted == labels], minlength=len(images))
    return 100.0 * float((right[images > 0] / images[images > 0]).mean())


def held_out(
    data: LabelledImages, settings: FinetuneSettings, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """On what a pair is chosen: the data set's own validation images, else a share of each class.

    Returns:
        The training images that stay, those held out, both as sorted indices, and the latter in words.
    """
    if data.validation is not None and 0 < len(data.validation) < len(data.train):
        kept = np.setdiff1d(np.arange(len(data.train)), data.validation)
        return kept, data.validation, f"the data set's own {len(data.validation)} validation images"
    kept, out = hold_out(data.train, settings.held_out, stream(seed, _HOLD_OUT), len(data.classes))
    return kept, out, f"{len(out)} of {len(data.train)} training images, held out"


def _choose(tuning: _Tuning, rates: Sequence[Rates]) -> tuple[Rates, list[str]]:
    """The pair that is best on the images held out, among equals the first; and what there is to say of the choice."""
    job, data, done = tuning.job, tuning.data, tuning.done
    metric = METRICS.get(data.card.layout, "top1")
    kept, out, where = held_out(data, tuning.settings, job.seed)
    kept_split, out_split = data.train.take(kept), data.train.take(out)
    for number in range(len(done.pairs), len(rates)):
        try:
            tuned = tuning.run(kept_split, out_split, rates[number], f"pair {number + 1}/{len(rates)}")
        except Diverged as error:
            done.tried(Tried(0.0, str(error)))
            continue
        of_class = mean_per_class(tuned.ranked[:, 0], out_split.labels)
        done.tried(Tried(of_class if metric == "mean_per_class" else accuracy(tuned.ranked, out_split.labels, 1)))

    def write() -> None:
        if distributed.rank() == 0:
            lines = [(each.lr, each.weight_decay, *astuple(pair)) for each, pair in zip(rates, done.pairs, strict=True)]
            _write(job, GRID, ("lr", "weight_decay", f"held_out_{metric}", "diverged"), lines)

    distributed.together(write)
    sound = [number for number, pair in enumerate(done.pairs) if not pair.diverged]
    if not sound:
        raise CheckFailed(
            f"all {len(rates)} pairs of lr and weight decay diverged, the last: {done.pairs[-1].diverged}"
        )
    best = rates[max(sound, key=lambda number: done.pairs[number].score)]
    notes = [
        f"lr {best.lr:g} and weight decay {best.weight_decay:g} chosen among {len(rates)} pairs by {metric} on {where}"
    ]
    if len(sound) < len(rates):
        notes.append(f"{len(rates) - len(sound)} of {len(rates)} pairs diverged: {GRID} says which and when")
    return best, notes


@dataclass(frozen=True)
class _Tuned:
    curve: list[Epoch]
    ranked: NDArray[np.int64]
    """N×5 best classes of the images that it was tested on, best first (N×C for fewer classes)."""
    margins: NDArray[np.float64]
    """N, see `evaluators.by_products.margins`."""
    receipt: Receipt


@dataclass(frozen=True)
class _Tuning:
    """All trainings of a job: each from the backbone, with the same draws."""

    job: Job
    settings: FinetuneSettings
    data: LabelledImages
    done: Progressed

    def run(self, training: Split, testing: Split, rates: Rates, label: str) -> _Tuned:
        job, settings = self.job, self.settings
        augmented = random_view(
            job.backbone.preprocess,
            crop=settings.crop,
            scale=settings.crop_scale,
            interpolation=settings.interpolation,
        )
        centred = view_of(job, settings)
        module, receipt = network(
            job,
            settings,
            num_classes=len(self.data.classes),
            views=[augmented, centred],
            seed=stream(job.seed, _INIT),
        )
        curve = train(
            module,
            Images(training, augmented, seed=(job.seed, _AUGMENT)),
            settings,
            rates,
            order_seed=stream(job.seed, _ORDER),
            state=self.done.training(label),
            label=label,
        )
        return _Tuned(
            curve, *predict(module, testing, centred, settings, label=f"{testing.name} accuracy"), receipt=receipt
        )


def predict(
    module: nn.Module, split: Split, view: Transform, settings: FinetuneSettings, *, label: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The five best classes of every image, best first (N×5, N×C for fewer classes), and the margins (N) of the best.

    The processes share the images.

    Raises:
        UserError: in every process, for an image that one of them cannot decode.
    """
    module.eval()
    device = next(module.parameters()).device
    number, size = distributed.rank(), distributed.size()
    mine = range(len(split) * number // size, len(split) * (number + 1) // size)

    @torch.inference_mode()
    def rank_mine() -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        batches = Batches(
            Images(split, view), batch_size=settings.batch_size, workers=settings.workers, pin=device.type == "cuda"
        )
        found = []
        with Progress(label, len(mine), unit="img", stream=None if number == 0 else StringIO()) as progress:
            for inputs, targets in batches(0, mine):
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                    logits = module(inputs.to(device, non_blocking=True)).float()
                best = rank(logits).cpu().numpy()
                found.append((best, margins(logits, best[:, 0], targets.numpy())))
                progress.step(len(inputs))
        return found

    parts = [part for shared in distributed.gather_values(distributed.together(rank_mine)) for part in shared]
    return np.concatenate([best for best, _ in parts]), np.concatenate([margin for _, margin in parts])


def _write(job: Job, name: str, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with files.whole(job.workdir / name) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def _notes(job: Job, settings: FinetuneSettings, data: LabelledImages, rates: Sequence[Rates]) -> list[str]:
    """What the reader of the numbers must know."""
    notes = []
    if len(rates) == 1 and settings.lr_random_init is not None and job.backbone.origin.family == RANDOM:
        notes.append(f"random weights: lr {rates[0].lr:g}")
    if len(data.train) < settings.batch_size:
        notes.append(f"batch {settings.batch_size} holds all {len(data.train)} training images")
    if distributed.size() > 1:
        over = "the whole batch" if settings.norm_images is None else f"{settings.norm_images} images"
        notes.append(
            f"batch normalisation over {over} in {distributed.size()} processes: as with one, up to float32 rounding, "
            "which a choice among pairs can amplify"
        )
    if settings.precision == "bf16":
        notes.append("trained and tested in bfloat16 autocast")
    return notes
