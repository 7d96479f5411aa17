"""The task `linear`: a linear classifier trained by SGD on the frozen backbone, on augmented images.

The reference is facebookresearch/moco@7397dfe main_lincls.py. Shapes: B images a batch, D features, C classes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.errors import CheckFailed
from converters.progress import Progress
from evaluators.datasets import image_folder
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import Frozen, freeze
from evaluators.images import Batches, Images, random_view, stream
from evaluators.job import Job, Metric, Outcome
from evaluators.predictions import accuracy, write_predictions
from evaluators.settings.linear import LinearSettings

CURVE = "linear.csv"
_INIT, _ORDER, _AUGMENT = range(3)
"""The streams of random numbers of a seed."""


def evaluate(job: Job) -> Outcome:
    """Run a linear protocol; writes `linear.csv` (one line an epoch) and `predictions.npz` to the job's folder.

    The metrics are `top1` and `top5` of the last epoch and `top1_best`, in percent over the validation images.

    Raises:
        UserError: for a data set that is no image folder.
        CheckFailed: if the receipt does not hold, or the loss is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, LinearSettings), settings.task
    data = image_folder.read(job.data)
    train_view = random_view(
        job.backbone.preprocess,
        crop=settings.crop,
        scale=settings.crop_scale,
        interpolation=settings.interpolation,
    )
    frozen = freeze(job.backbone, job.device, [train_view, view_of(job, settings)])
    # The backbone is frozen and the view is fixed: one extraction serves the validation of every epoch.
    (val,) = extract(job, frozen, data.val, settings)
    val_features = torch.from_numpy(val.values).to(job.device)

    fc = head(val.values.shape[1], len(data.classes), settings.init_std, job.seed).to(job.device)
    images = Images(data.train, train_view, seed=(job.seed, _AUGMENT))
    best = top1 = top5 = -math.inf
    ranked = np.empty((len(data.val), 0), dtype=np.int64)
    with (job.workdir / CURVE).open("w", newline="", encoding="utf-8") as file:
        curve = csv.writer(file)
        curve.writerow(("epoch", "lr", "loss", "train_top1", "val_top1", "val_top5"))
        for epoch, (lr, loss, train_top1) in enumerate(train(frozen, fc, images, settings, job.seed), start=1):
            with torch.inference_mode():
                ranked = rank(fc(val_features)).cpu().numpy()
            top1, top5 = accuracy(ranked, val.labels, 1), accuracy(ranked, val.labels, 5)
            best = max(best, top1)
            curve.writerow((epoch, lr, f"{loss:.6f}", f"{train_top1:.3f}", f"{top1:.3f}", f"{top5:.3f}"))
            file.flush()
    receipt = frozen.still_frozen()
    write_predictions(job.workdir, data, {"last": ranked[:, 0]})
    metrics = tuple(
        Metric(name=name, value=value, unit="%", higher_is_better=True, n=len(data.val))
        for name, value in (("top1", top1), ("top5", top5), ("top1_best", best))
    )
    small = len(data.train) < settings.batch_size
    notes = (f"batch {settings.batch_size} holds all {len(data.train)} training images",) if small else ()
    return Outcome(metrics=metrics, receipt=receipt, dataset=data.card, notes=notes)


def head(feature_dim: int, num_classes: int, std: float, seed: int) -> nn.Linear:
    """The classifier D -> C at its start: weights from N(0, std) by the seed, bias zero."""
    fc = nn.Linear(feature_dim, num_classes)
    nn.init.normal_(fc.weight, std=std, generator=torch.Generator().manual_seed(stream(seed, _INIT)))
    nn.init.zeros_(fc.bias)
    return fc


def order(n: int, seed: int, epoch: int) -> list[int]:
    """The order of the n training images in an epoch (0 is the first)."""
    permutation: list[int] = torch.randperm(
        n, generator=torch.Generator().manual_seed(stream(seed, _ORDER, epoch))
    ).tolist()
    return permutation


def learning_rate(settings: LinearSettings, epoch: int) -> float:
    """The learning rate in an epoch (0 is the first): tenfold less for every milestone reached."""
    return settings.lr * 0.1 ** sum(epoch >= milestone for milestone in settings.milestones)


def train(
    frozen: Frozen, fc: nn.Linear, images: Images, settings: LinearSettings, seed: int
) -> Iterator[tuple[float, float, float]]:
    """Train `fc` in place, an epoch a step: yields its learning rate, mean loss and training accuracy in percent.

    Images and features go to the device of `fc`, which must be the backbone's.

    Raises:
        CheckFailed: if anything but the classifier can be trained, or the loss is not finite.
    """
    trainable = [p for p in (*frozen.module.parameters(), *fc.parameters()) if p.requires_grad]
    if len(trainable) != 2:
        raise CheckFailed(f"linear probe: expected two trainable tensors (fc.weight, fc.bias), found {len(trainable)}")
    # In train mode its batch normalisation would learn from the images: the backbone stays as it was pretrained.
    frozen.module.eval()
    device = fc.weight.device
    sgd = torch.optim.SGD(trainable, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    batches = Batches(images, batch_size=settings.batch_size, workers=settings.workers, pin=device.type == "cuda")
    with Progress("linear", settings.epochs * len(images), unit="img") as progress:
        for epoch in range(settings.epochs):
            lr = learning_rate(settings, epoch)
            for group in sgd.param_groups:
                group["lr"] = lr
            loss_sum, hits = 0.0, 0
            for step, (inputs, targets) in enumerate(batches(epoch, order(len(images), seed, epoch))):
                labels = targets.to(device, non_blocking=True)
                with torch.no_grad():
                    features = frozen.module(inputs.to(device, non_blocking=True))
                logits = fc(features)
                loss = F.cross_entropy(logits, labels)
                value = loss.item()
                if not math.isfinite(value):
                    raise CheckFailed(
                        f"linear probe: the loss is {value} at epoch {epoch + 1}, step {step + 1} with lr {lr:g}: "
                        f"lr {settings.lr:g} is too large for batch {settings.batch_size} and these features"
                    )
                sgd.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                sgd.step()
                loss_sum += value * len(labels)
                hits += int((logits.argmax(dim=1) == labels).sum())
                progress.step(len(labels), epoch=epoch + 1, lr=f"{lr:g}", loss=value)
            yield lr, loss_sum / len(images), 100.0 * hits / len(images)


def rank(logits: Tensor) -> Tensor:
    """The five best classes, best first: N×C -> N×5 (N×C for fewer classes). Equal logits: the lower class first."""
    return logits.argsort(dim=1, descending=True, stable=True)[:, :5]
