"""Features by name: from the cache where they are, else computed once and kept."""

from __future__ import annotations

from evaluators.datasets.labelled import Split
from evaluators.features.compute import Features, compute
from evaluators.features.frozen import Frozen
from evaluators.features.layers import POOLED, Layer
from evaluators.images import Transform, centre_view
from evaluators.job import Job
from evaluators.settings.base import FeatureSettings


def view_of(job: Job, settings: FeatureSettings) -> Transform:
    """The view that these settings ask for, as the job's backbone wants its input."""
    return centre_view(
        job.backbone.preprocess,
        resize=settings.resize,
        crop=settings.crop,
        interpolation=settings.interpolation,
        geometry=settings.geometry,
    )


def extract(
    job: Job, frozen: Frozen, split: Split, settings: FeatureSettings, layers: tuple[Layer, ...] = (POOLED,)
) -> tuple[Features, ...]:
    """The features of a split's images in their order, one `Features` a layer.

    Args:
        job: whose backbone it is, and where the cache lies.
        frozen: the live backbone.
        split: N images, at least one.
        settings: the view, the precision, the batch.
        layers: which features; all come from one pass.

    Raises:
        UserError: for an image that cannot be decoded.
        CheckFailed: if a feature is NaN or infinite, naming the image.
    """
    assert layers == (POOLED,), layers
    label = f"{split.name} features"
    return (
        compute(
            frozen.module,
            split,
            view_of(job, settings),
            batch_size=settings.batch_size,
            workers=settings.workers,
            label=label,
        ),
    )
