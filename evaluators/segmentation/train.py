"""One segmentation run, straight down: data, model, receipt, training, test."""

from __future__ import annotations

import logging
import math
from typing import Any

import mmseg.datasets
import mmseg.models  # noqa: F401 - these two fill mmseg's registries
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from converters.architectures import architecture
from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.progress import Progress
from converters.receipt import Receipt, openmmlab_receipt
from converters.receipt_hook import loaded_order
from evaluators.datasets import cityscapes
from evaluators.job import Job, Metric, Outcome
from evaluators.segmentation import config
from evaluators.segmentation.metric import UnroundedIoU
from evaluators.settings.segmentation import SegmentationSettings

METRICS = ("mIoU", "mAcc", "aAcc")


def run(job: Job, settings: SegmentationSettings) -> Outcome:
    """Train and test in this one process; see `evaluators.segmentation.task.evaluate`."""
    if settings.num_classes != cityscapes.NUM_CLASSES:
        raise UserError(
            expected=f"the {cityscapes.NUM_CLASSES} classes of Cityscapes",
            found=str(settings.num_classes),
            where=job.protocol.id,
        )
    notes = []
    if settings.norm != "BN":
        notes.append(f"{settings.norm} became BN: one process on {job.device.type} sees the whole batch")
    splits = [cityscapes.read_split(job.data, name) for name in (settings.train_split, settings.test_split)]
    test_images = len(splits[1].images)
    proof = LoadBackbone(job.backbone)
    runner = QuietRunner(
        model=ConfigDict(
            config.model(
                settings,
                architecture(job.backbone.arch),
                job.backbone.preprocess,
                # mmengine swaps SyncBN only where nothing is distributed; under gloo it would stay, and fail on a CPU.
                norm="BN",
                stride_in_1x1=job.backbone.stride_in_1x1,
            )
        ),
        work_dir=str(job.workdir),
        train_dataloader=config.train_dataloader(settings, job.data),
        train_cfg={
            "type": "IterBasedTrainLoop",
            "max_iters": settings.iterations,
            "val_interval": settings.iterations + 1,
        },
        optim_wrapper=config.optim_wrapper(settings),
        param_scheduler=config.param_scheduler(settings),
        test_dataloader=config.test_dataloader(settings, job.data),
        test_cfg={"type": "TestLoop"},
        test_evaluator={"type": UnroundedIoU, "iou_metrics": ["mIoU"], "ignore_index": cityscapes.IGNORED},
        # The tuned segmentor is a by-product: no checkpoint is kept.
        default_hooks={"checkpoint": None},
        custom_hooks=[proof, ShowProgress(settings.iterations, test_images)],
        randomness={"seed": job.seed},
        default_scope="mmseg",
        # mmengine keeps loggers and scopes by this name: two runs of one process must not share it.
        experiment_name=str(job.workdir).replace("/", "_"),
    )
    runner.train()
    assert proof.receipt is not None
    results = runner.test()
    values = {name: float(results[name]) for name in METRICS}
    if not all(math.isfinite(value) for value in values.values()):
        raise CheckFailed(f"segmentation: expected finite metrics, found {values}")
    metrics = tuple(
        Metric(name=name, value=value, unit="%", higher_is_better=True, n=test_images) for name, value in values.items()
    )
    return Outcome(metrics, proof.receipt, cityscapes.describe(job.data, splits), tuple(notes))


class LoadBackbone(Hook):  # type: ignore[misc]  # mmengine ships no types
    """Copies the backbone into the live model behind mmengine's own initialisation, and takes the receipt."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.receipt: Receipt | None = None

    def before_train(self, runner: Any) -> None:
        """The last moment before iteration 0."""
        try:
            runner.model.backbone.load_state_dict(dict(self._backbone.tensors), strict=True)
        except RuntimeError as error:
            raise CheckFailed(f"segmentation: the model does not fit {self._backbone.arch}: {error}") from None
        order = loaded_order(runner.train_dataloader.dataset)
        self.receipt = openmmlab_receipt(runner.model, self._backbone.metadata, loaded_order=order)

    def before_test(self, runner: Any) -> None:
        """The test images must enter as those of the training did."""
        trained, tested = (loaded_order(each.dataset) for each in (runner.train_dataloader, runner.test_dataloader))
        if trained != tested:
            raise CheckFailed(f"receipt: trained on images loaded as {trained}, tested on {tested}")


class ShowProgress(Hook):  # type: ignore[misc]  # mmengine ships no types
    """Shows iterations and test images, and stops at a loss that is not finite."""

    def __init__(self, iterations: int, test_images: int) -> None:
        self._iterations, self._test_images = iterations, test_images
        self._progress: Progress

    def before_train(self, runner: Any) -> None:  # noqa: ARG002 - mmengine's interface, here and below
        """Start the line of the training."""
        self._progress = Progress("segmentation training", self._iterations)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:  # noqa: ARG002
        """One iteration is done; `outputs` holds its losses."""
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            self._close()
            raise CheckFailed(f"segmentation: the loss is not finite at iteration {batch_idx}; see the learning rate")
        self._progress.step(loss=loss)

    def after_train(self, runner: Any) -> None:  # noqa: ARG002
        """End the line."""
        self._close()

    def before_test(self, runner: Any) -> None:  # noqa: ARG002
        """Start the line of the test."""
        self._progress = Progress("segmentation test", self._test_images, "images")

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:  # noqa: ARG002
        """One image is done."""
        self._progress.step(len(outputs))

    def after_test(self, runner: Any) -> None:  # noqa: ARG002
        """End the line."""
        self._close()

    def _close(self) -> None:
        self._progress.__exit__(None, None, None)


class QuietRunner(Runner):  # type: ignore[misc]  # mmengine ships no types
    """mmengine's runner, whose log goes to its file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger without its handler for the terminal."""
        logger = super().build_logger(*args, **kwargs)
        for handler in list(logger.handlers):
            if not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
        return logger
