"""The task `segmentation`: FCN on a plain ResNet, fine-tuned end to end in mmsegmentation."""

from __future__ import annotations

import importlib.util

from converters.errors import MissingPackage
from evaluators.framework_log import framework_log
from evaluators.job import Job, Outcome
from evaluators.settings.segmentation import SegmentationSettings

LOG = "mmseg.log"
"""In the job's folder; mmengine's own folder, named by date and time, is beside it with the losses as JSON."""

INSTALL = "pip install 'moco-transfer[mmseg]'"


def evaluate(job: Job) -> Outcome:
    """Train and test the segmentor that the job's protocol declares.

    Metrics are mIoU, mAcc (mean recall of classes) and aAcc (share of right pixels) in percent; n counts test images.

    Raises:
        UserError: for a data set that is not as its layout asks.
        MissingPackage: if mmsegmentation is not installed.
        CheckFailed: if the receipt does not hold, or the loss is not finite.
    """
    settings = job.protocol.settings
    assert isinstance(settings, SegmentationSettings)
    for package in ("mmengine", "mmcv", "mmseg"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, INSTALL, "segmentation")
    with framework_log(job.workdir / LOG, ("mmengine", "mmcv", "mmseg")):
        from evaluators.segmentation.train import run

        return run(job, settings)
