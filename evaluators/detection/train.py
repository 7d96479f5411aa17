"""One detection run, straight down: data, model, receipt, training, test."""

from __future__ import annotations

import math
from typing import Any

from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter
from torch import nn

from converters import keymap
from converters.architectures import architecture
from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.progress import Progress
from converters.receipt import detectron2_receipt
from evaluators.detection import config
from evaluators.detection.data import registered
from evaluators.job import Job, Metric, Outcome
from evaluators.settings.detection import DetectionSettings

METRICS = ("AP50", "AP", "AP75")


def run(job: Job, settings: DetectionSettings) -> Outcome:
    """Train and test in this one process; see `evaluators.detection.task.evaluate`."""
    notes = []
    if settings.norm != "BN":
        notes.append(f"{settings.norm} became BN: one process on {job.device.type} sees the whole batch")
    with registered(settings, job.data, job.workdir) as data:
        cfg = config.build(
            settings,
            architecture(job.backbone.arch),
            job.backbone.metadata,
            train=data.train,
            test=data.test,
            norm="BN",
            device=str(job.device),
            seed=job.seed,
            output=job.workdir,
        )
        # detectron2 appends to it: an earlier attempt in this folder would be mixed with this one.
        (job.workdir / "metrics.json").unlink(missing_ok=True)
        (job.workdir / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        # Heads, order of images, augmentation and sampled proposals all draw from the generators seeded here.
        seed_all_rng(job.seed)
        trainer = Trainer(cfg)
        load_backbone(trainer.model, job.backbone, settings)
        receipt = detectron2_receipt(trainer.model, cfg, job.backbone.metadata)
        try:
            trainer.train()
        except FloatingPointError as error:
            raise CheckFailed(f"detection: the loss is not finite ({error}); see the learning rate") from None
        loader = Trainer.build_test_loader(cfg, data.test)
        with Progress("detection test", data.test_images, "images") as progress:
            results = inference_on_dataset(trainer.model, loader, [data.evaluator, _Counter(progress)])
    values = {name: float(results["bbox"][name]) for name in METRICS}
    if not all(math.isfinite(value) for value in values.values()):
        raise CheckFailed(f"detection: expected finite metrics, found {values}: the detector finds nothing")
    metrics = tuple(
        Metric(name=name, value=value, unit="%", higher_is_better=True, n=data.test_images)
        for name, value in values.items()
    )
    return Outcome(metrics, receipt, data.card, tuple(notes))


def load_backbone(model: nn.Module, backbone: Backbone, settings: DetectionSettings) -> None:
    """Copy the backbone's tensors into the live detector by name: every one of them must have its place.

    Raises:
        CheckFailed: if a tensor has no place, or another shape there.
    """
    tensors = keymap.detectron2(backbone.arch, settings.head).rename(backbone.tensors)
    try:
        unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
    except RuntimeError as error:
        raise CheckFailed(f"detection: the model does not fit {backbone.arch}: {error}") from None
    if unexpected:
        raise CheckFailed(
            f"detection: expected a place for all {len(tensors)} tensors of the backbone, found none for "
            f"{len(unexpected)}, as {unexpected[0]}"
        )


class Trainer(DefaultTrainer):  # type: ignore[misc]  # detectron2 ships no types
    """detectron2's own trainer, with our progress and without checkpoints: the tuned detector is a by-product."""

    def build_hooks(self) -> list[HookBase]:
        """detectron2's timer, schedule, PreciseBN and writers, then ours."""
        kept = [
            hook
            for hook in super().build_hooks()
            if hook is not None and not isinstance(hook, (hooks.PeriodicCheckpointer, hooks.EvalHook))
        ]
        return [*kept, _ShowProgress(self.cfg.SOLVER.MAX_ITER)]

    def build_writers(self) -> list[Any]:
        """Losses into the log and into `metrics.json`."""
        return [CommonMetricPrinter(self.max_iter), JSONWriter(f"{self.cfg.OUTPUT_DIR}/metrics.json")]


class _ShowProgress(HookBase):  # type: ignore[misc]  # detectron2 ships no types
    def __init__(self, iterations: int) -> None:
        self._progress = Progress("detection training", iterations)

    def before_train(self) -> None:
        self._progress.__enter__()

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        value, _ = latest.get("total_loss", (math.nan, 0))
        self._progress.step(loss=float(value))

    def after_train(self) -> None:
        self._progress.__exit__(None, None, None)


class _Counter(DatasetEvaluator):  # type: ignore[misc]  # detectron2 ships no types
    """Measures nothing: it shows how many images are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def process(self, inputs: Any, outputs: Any) -> None:  # noqa: ARG002 - the interface of detectron2
        self._progress.step(len(inputs))
