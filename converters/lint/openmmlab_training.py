"""The rules for data, learning rate and schedule of an OpenMMLab configuration."""

from __future__ import annotations

from typing import Any

from converters.lint import published
from converters.lint import schedules as lengths
from converters.lint.finding import Findings, Text
from converters.lint.finding import Path as KeyPath
from converters.lint.openmmlab_view import BACKBONE, OpenMMLabConfig, at, kind, listed, mapping
from converters.lint.published import DataSet, Schedule
from converters.lint.values import count, number, sequence

_HEADS: dict[str, tuple[KeyPath, ...]] = {
    "mmseg": (("model", "decode_head"), ("model", "auxiliary_head")),
    "mmdet": (
        ("model", "roi_head", "bbox_head"),
        ("model", "roi_head", "mask_head"),
        ("model", "bbox_head"),
        ("model", "mask_head"),
    ),
    "mmpretrain": (("model", "head"),),
}
_WARMUPS = ("LinearLR", "ConstantLR")


def check(findings: Findings, cfg: OpenMMLabConfig) -> None:
    """Data and schedule; silent about what the file leaves to others, as a fragment does."""
    data = _data_set(findings, cfg)
    _check_splits(findings, cfg)
    _check_dense(findings, cfg)
    _check_end(findings, cfg)
    known = _schedules(cfg, data)
    _check_rate(findings, cfg, known)
    _check_length(findings, cfg, data, known)
    if data is not None and data.name == "VOC" and cfg.framework == "mmdet":
        _check_warmup(findings, cfg)


def _data_set(findings: Findings, cfg: OpenMMLabConfig) -> DataSet | None:
    """The data set that is trained on, where it is one and known; checks the number of classes."""
    train = cfg.data_sets("train")
    if not train:
        return None
    names = sorted({kind(data) for data in train})
    known = [published.openmmlab_data_set(cfg.framework, name) for name in names]
    own = next((data["metainfo"].get("classes") for data in train if isinstance(data.get("metainfo"), dict)), None)
    heads = [
        ((*path, "num_classes"), head["num_classes"])
        for place in _HEADS[cfg.framework]
        for path, head in listed(cfg.values, place)
        if "num_classes" in head
    ]
    if isinstance(own, (list, tuple)):
        right = len(own)
    elif len(known) == 1 and known[0] is not None:
        right = known[0].classes
    else:
        if heads:
            findings.add(
                "class-count",
                heads[0][0],
                heads[0][1],
                Text(f"the class count of {', '.join(names)}, which is not known here"),
                fix="count the classes of the data set",
                severity="warning",
            )
        return None
    wrong = {path: found for path, found in heads if found != right}
    if wrong:
        first = next(iter(wrong))
        findings.add("class-count", first, wrong[first], right, changes=dict.fromkeys(wrong, right))
    return None if isinstance(own, (list, tuple)) else known[0]


def _check_splits(findings: Findings, cfg: OpenMMLabConfig) -> None:
    train = cfg.data_sets("train")
    trained_on = [_identity(data) for data in train]
    for which in ("val", "test"):
        tested = cfg.data_sets(which)
        path: KeyPath = (f"{which}_dataloader", "dataset")
        if any(identity is not None and identity in trained_on for identity in map(_identity, tested)):
            findings.add(
                "test-in-train",
                path,
                Text("images of the training"),
                Text("other images"),
                fix=f"name another split in {which}_dataloader",
            )
        reads = {_reading(data) for data in (*train, *tested)} - {None}
        if train and tested and len(reads) > 1:
            findings.add(
                "train-test-input",
                path,
                Text(f"read and normalised as {', and as '.join(sorted(map(str, reads)))}"),
                Text("one way for training and test"),
                fix="give LoadImageFromFile the same color_type, and Normalize the same values, in both pipelines",
            )
        if at(cfg.values, ("test_dataloader",)) == at(cfg.values, ("val_dataloader",)):
            return  # the usual case: one for both


def _identity(data: dict[str, Any]) -> tuple[str, ...] | None:
    """Which images a data set holds; None where it does not say."""
    if not data.get("ann_file") and not data.get("data_prefix") and not data.get("img_dir"):
        return None
    return tuple(repr(data.get(key)) for key in ("type", "data_root", "ann_file", "data_prefix", "img_dir", "split"))


def _reading(data: dict[str, Any]) -> str | None:
    """How a pipeline makes numbers of a file, in the steps that can differ; None where it loads no image."""
    pipeline = [step for step in sequence(data.get("pipeline")) if isinstance(step, dict)]
    load = next((step for step in pipeline if kind(step).startswith("LoadImage")), None)
    if load is None:
        return None
    norm = next((step for step in _flat(pipeline) if kind(step) == "Normalize"), {})
    shown = [str(load.get("color_type", "color"))]
    return " ".join(shown + [f"{key}={norm[key]}" for key in ("mean", "std", "to_rgb") if key in norm])


def _flat(pipeline: list[Any]) -> list[dict[str, Any]]:
    """The steps, those within a wrapper of the 0.x line (`MultiScaleFlipAug`) too."""
    found: list[dict[str, Any]] = []
    for step in pipeline:
        if isinstance(step, dict):
            found += [step, *_flat(list(sequence(step.get("transforms"))))]
    return found


def _check_dense(findings: Findings, cfg: OpenMMLabConfig) -> None:
    """Two of OpenMMLab's own settings of its segmentation recipes."""
    if cfg.framework != "mmseg":
        return
    backbone = mapping(cfg.values, BACKBONE)
    path: KeyPath = (*BACKBONE, "contract_dilation")
    if sequence(backbone.get("dilations")) == (1, 1, 2, 4) and not backbone.get("contract_dilation"):
        has = backbone.get("contract_dilation", False)
        findings.add("contract-dilation", path, has, True, changes={path: True}, severity="warning")
    crop = at(cfg.values, ("model", "data_preprocessor", "size"), at(cfg.values, ("crop_size",)))
    if isinstance(crop, (list, tuple)) and crop and all(isinstance(size, int) and size % 2 for size in crop):
        heads = [pair for place in _HEADS["mmseg"] for pair in listed(cfg.values, place)]
        wrong: dict[KeyPath, Any] = {
            (*one, "align_corners"): True for one, head in heads if not head.get("align_corners")
        }
        if wrong:
            first = next(iter(wrong))
            findings.add("align-corners", first, False, True, changes=wrong, severity="warning")


def _schedulers(cfg: OpenMMLabConfig) -> list[tuple[KeyPath, dict[str, Any]]]:
    return listed(cfg.values, ("param_scheduler",))


def _total(cfg: OpenMMLabConfig, *, by_epoch: bool) -> int | None:
    return count(at(cfg.values, ("train_cfg", "max_epochs" if by_epoch else "max_iters")))


def _check_end(findings: Findings, cfg: OpenMMLabConfig) -> None:
    for path, scheduler in _schedulers(cfg):
        by_epoch = bool(scheduler.get("by_epoch", True))
        total = _total(cfg, by_epoch=by_epoch)
        if total is None or kind(scheduler) in _WARMUPS:
            continue
        end = scheduler.get("end")
        milestones = [step for step in map(count, sequence(scheduler.get("milestones"))) if step is not None]
        last = count(end) or max(milestones, default=0) + 1
        if max(last, max(milestones, default=-1) + 1) > total:
            place: KeyPath = ("train_cfg", "max_epochs" if by_epoch else "max_iters")
            findings.add(
                "schedule-end",
                place,
                Text(f"{total}, while {kind(scheduler)} at {'.'.join(map(str, path))} goes to {last}"),
                last,
                changes={place: last},
            )


def _schedules(cfg: OpenMMLabConfig, data: DataSet | None) -> tuple[Schedule, ...]:
    """The published schedules for this data set and this kind of learning rate."""
    if data is None or cfg.framework == "mmpretrain":
        return ()
    if cfg.framework == "mmseg":
        stepwise = any(kind(scheduler) == "MultiStepLR" for _, scheduler in _schedulers(cfg))
        found = published.SEGMENTATION_SCHEDULES.get(data.name, ())
        return tuple(schedule for schedule in found if bool(schedule.steps) == stepwise)
    return published.SCHEDULES.get(data.name, ()) if mapping(cfg.values, ("model", "roi_head")) else ()


def _check_rate(findings: Findings, cfg: OpenMMLabConfig, known: tuple[Schedule, ...]) -> None:
    path: KeyPath = ("optim_wrapper", "optimizer")
    optimizer = mapping(cfg.values, path)
    rate = number(optimizer.get("lr"))
    if kind(optimizer) != "SGD" or "lr" not in optimizer or not known:
        return
    if rate is None:
        expected = Text("a number")
        findings.add("learning-rate", (*path, "lr"), optimizer["lr"], expected, fix="write the protocol's")
        return
    if at(cfg.values, ("auto_scale_lr", "enable")):
        findings.note("auto_scale_lr is on: the learning rate is scaled when training starts, and was not checked")
        return
    if cfg.batch is None:
        findings.note("the learning rate was not checked: how many GPUs train? Say --gpus N")
        return
    right = [lengths.linear_rate(schedule.lr, cfg.batch, schedule.batch) for schedule in known]
    if not any(lengths.near(rate, one) for one in right):
        best, schedule = min(zip(right, known, strict=True), key=lambda pair: abs(pair[0] - rate))
        expected = Text(f"{best:g} for {cfg.batch} images ({schedule.lr:g} for {schedule.batch})")
        findings.add("learning-rate", (*path, "lr"), rate, expected, changes={(*path, "lr"): best})


def _check_length(findings: Findings, cfg: OpenMMLabConfig, data: DataSet | None, known: tuple[Schedule, ...]) -> None:
    epochs = _total(cfg, by_epoch=True)
    published_epochs = published.EPOCHS.get(data.name) if data is not None else None
    if epochs is not None and published_epochs and known and epochs not in published_epochs:
        findings.add(
            "schedule",
            ("train_cfg", "max_epochs"),
            epochs,
            Text(f"one of {', '.join(map(str, published_epochs))}"),
            fix="take one of them, or report the number as one of a schedule of its own",
            severity="warning",
        )
    iterations = _total(cfg, by_epoch=False)
    if iterations is None or cfg.batch is None or data is None or not known:
        return
    stepwise = next(((path, s) for path, s in _schedulers(cfg) if kind(s) == "MultiStepLR"), None)
    steps = sequence(stepwise[1].get("milestones")) if stepwise else ()
    place: KeyPath = (*stepwise[0], "milestones") if stepwise else ("param_scheduler",)
    length = lengths.Length(iterations, steps, cfg.batch)
    lengths.check_length(findings, data.name, known, length, (("train_cfg", "max_iters"), place))


def _check_warmup(findings: Findings, cfg: OpenMMLabConfig) -> None:
    for path, scheduler in _schedulers(cfg):
        if kind(scheduler) == "LinearLR" and scheduler.get("by_epoch") is False:
            end = scheduler.get("end")
            right = round(published.VOC_WARMUP * 16 / (cfg.batch or 16))
            if end not in (published.VOC_WARMUP, right):
                place = (*path, "end")
                findings.add("warmup", place, end, right, changes={place: right}, severity="warning")
