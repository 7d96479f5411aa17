"""The task `detection`: Faster R-CNN, fine-tuned end to end in detectron2."""

from __future__ import annotations

from converters import detectron2_compat
from converters.architectures import architecture
from converters.errors import UserError
from evaluators.framework_log import framework_log
from evaluators.job import Job, Outcome
from evaluators.settings.detection import DetectionSettings

LOG = "detectron2.log"
"""In the job's folder; the losses of every 20th iteration are beside it in `metrics.json`."""


def evaluate(job: Job) -> Outcome:
    """Train and test the detector that the job's protocol declares.

    Metrics are AP50, AP and AP75 in percent; n counts test images.

    Raises:
        UserError: for a data set that is not as its layout asks, or a head that does not fit the backbone.
        MissingPackage: if detectron2 is not installed.
        CheckFailed: if the receipt does not hold, or the loss is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, DetectionSettings)
    if settings.head == "C4" and not architecture(job.backbone.arch).bottleneck:
        raise UserError(
            expected="a backbone with bottleneck blocks for the head C4 (ResNet-50, 101 or 152)",
            found=job.backbone.arch,
            where=job.protocol.id,
            cure="take a protocol with the head FPN",
        )
    with framework_log(job.workdir / LOG, ("detectron2", "fvcore", "d2")):
        detectron2_compat.prepare("detection")
        from evaluators.detection.train import run

        return run(job, settings)
