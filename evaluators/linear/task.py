"""The task `linear`: a linear classifier trained by SGD on the frozen backbone, on augmented images.

The reference is facebookresearch/moco@7397dfe main_lincls.py. One process or several: see `evaluators.linear.batches`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from converters.distributed import gather_values
from converters.files import whole
from evaluators import by_products
from evaluators.datasets import classification
from evaluators.datasets.labels import one_class_an_image
from evaluators.features.compute import notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.images import View, random_view
from evaluators.job import Job, Metric, Outcome
from evaluators.linear.batches import FeatureBatches
from evaluators.linear.heads import Heads, start
from evaluators.linear.resume import Unfinished
from evaluators.linear.training import train
from evaluators.predictions import accuracy
from evaluators.settings.linear import LinearSettings, ProbeSettings

CURVE = "linear.csv"
_COLUMNS = ("epoch", "lr", "loss", "train_top1", "val_top1", "val_top5")


def evaluate(job: Job) -> Outcome:
    """Run a linear protocol; writes `linear.csv` (one line an epoch) and the by-products to the job's folder.

    The metrics are `top1` and `top5` of the last epoch and `top1_best`, in percent over the validation images. An
    evaluation that was cut off goes on behind the last epoch that was done.

    Raises:
        UserError: for a data set that is no image folder, or a batch that the processes do not divide.
        CheckFailed: if the receipt does not hold, or the loss is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, LinearSettings), settings.task
    data = classification.read(job.data)
    one_class_an_image(data)
    train_view = augmented_view(job, settings)
    frozen = freeze(job.backbone, job.device, [train_view, view_of(job, settings)])
    # The backbone is frozen and the view is fixed: one extraction serves the validation of every epoch.
    (val,) = extract(job, frozen, data.val, settings)
    val_features = val.tensor(job.device)

    batches = FeatureBatches(
        frozen,
        data.train,
        train_view,
        seed=job.seed,
        settings=settings,
        device=job.device,
    )
    heads = Heads(
        start(val_features.shape[1], len(data.classes), settings.init_std, job.seed).to(job.device),
        lr=[settings.lr],
        weight_decay=[settings.weight_decay],
        momentum=settings.momentum,
    )
    unfinished = Unfinished(job, data.card.fingerprint)
    rows: list[list[Any]] = (unfinished.load(heads.state()) or {"rows": []})["rows"]
    for epoch in train(
        heads,
        batches,
        epochs=settings.epochs,
        milestones=settings.milestones,
        n=len(data.train),
        seed=job.seed,
        first=len(rows),
    ):
        ranked = heads.rank(val_features, 0).cpu().numpy()
        top1, top5 = accuracy(ranked, val.labels, 1), accuracy(ranked, val.labels, 5)
        rows.append([epoch.number, settings.lr * epoch.scale, epoch.loss[0], epoch.train_top1[0], top1, top5])
        unfinished.save(heads.state(), {"rows": rows}, lambda: _write_curve(job.workdir / CURVE, rows))
    receipt = frozen.still_frozen()

    # One process's numbers: equal heads in all of them are no reason to trust the last bit.
    rows = gather_values(rows)[0]
    ranked = heads.rank(val_features, 0).cpu().numpy()
    by_products.write(job.workdir, data, heads.logits(val_features, 0), {"last": ranked[:, 0]})
    values = {"top1": rows[-1][4], "top5": rows[-1][5], "top1_best": max(row[4] for row in rows)}
    return Outcome(
        metrics=tuple(
            Metric(name=name, value=value, unit="%", higher_is_better=True, n=len(data.val))
            for name, value in values.items()
        ),
        receipt=receipt,
        dataset=data.card,
        notes=(*notes_of(val), *small_batch(settings, len(data.train))),
    )


def augmented_view(job: Job, settings: ProbeSettings) -> View:
    """The view that the heads are trained on."""
    return random_view(
        job.backbone.preprocess,
        crop=settings.crop,
        scale=settings.crop_scale,
        interpolation=settings.interpolation,
    )


def small_batch(settings: ProbeSettings, n: int) -> tuple[str, ...]:
    """A note where the batch is larger than the n training images."""
    return (f"batch {settings.batch_size} holds all {n} training images",) if n < settings.batch_size else ()


def _write_curve(path: Path, rows: list[list[Any]]) -> None:
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        curve = csv.writer(file)
        curve.writerow(_COLUMNS)
        for number, lr, *measured in rows:
            loss, *accuracies = measured
            curve.writerow((number, lr, f"{loss:.6f}", *(f"{value:.3f}" for value in accuracies)))
