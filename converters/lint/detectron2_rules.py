"""The rules for a detectron2 configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converters import to_detectron2
from converters.lint import detectron2_network, published, weights
from converters.lint import schedules as lengths
from converters.lint.detectron2_view import Detectron2Config, key_path
from converters.lint.finding import Findings, Text, shown
from converters.lint.finding import Path as KeyPath
from converters.lint.input_rules import check_normalisation
from converters.lint.values import count, number, sequence
from converters.metadata import BackboneMetadata


def check(
    content: dict[str, Any], path: Path, metadata: BackboneMetadata, gpus: int | None, source: Path | None
) -> Findings:
    """Hold a configuration against a backbone.

    Args:
        content: what `yaml_config.read` gave.
        path: of the configuration.
        metadata: of the backbone.
        gpus: how many devices will train; 0 is a CPU, None is not known.
        source: the file of the backbone, where it lies in one: what `--fix` may name as weights.
    """
    cfg = Detectron2Config(content, path)
    findings = Findings()
    _check_input(findings, cfg, metadata)
    detectron2_network.check(findings, cfg, metadata)
    detectron2_network.check_norm(findings, cfg, gpus)
    _check_weights(findings, cfg, metadata, source)
    _check_data(findings, cfg)
    _check_schedule(findings, cfg)
    return findings


def _check_input(findings: Findings, cfg: Detectron2Config, metadata: BackboneMetadata) -> None:
    order = metadata.preprocess.channel_order
    if cfg.get("INPUT.FORMAT") != order:
        key = "INPUT.FORMAT"
        findings.add("channel-order", key_path(key), cfg.found(key), order, changes={key_path(key): order})
    check_normalisation(
        findings,
        metadata,
        cfg.get("MODEL.PIXEL_MEAN"),
        cfg.get("MODEL.PIXEL_STD"),
        {"mean": [key_path("MODEL.PIXEL_MEAN")], "std": [key_path("MODEL.PIXEL_STD")]},
    )


def _check_weights(findings: Findings, cfg: Detectron2Config, metadata: BackboneMetadata, source: Path | None) -> None:
    key = "MODEL.WEIGHTS"
    named = cfg.get(key)
    changes = {key_path(key): str(source)} if source is not None and source.suffix == to_detectron2.SUFFIX else {}
    fix = None if changes else "make the file with: moco-transfer convert BACKBONE --to detectron2 -o NAME.pkl"
    right = Text("the backbone's .pkl")
    if not named or not isinstance(named, str):
        if metadata.origin.family == "random":
            findings.note(f"{key} is empty: random weights, as the backbone has, but drawn anew")
        else:
            findings.add("weights-absent", key_path(key), cfg.found(key), right, fix=fix, changes=changes)
        return
    if named.strip().lower() == "see instructions":
        # What the reference's own files say; the README gives the weights on the command line.
        findings.note(f"{key} names no file: give it on the command line, as MODEL.WEIGHTS moco.pkl")
        return
    file = weights.look_at(named, cfg.path, metadata)
    bare = file.suffix != to_detectron2.SUFFIX and "matching_heuristics=True" not in named
    if file.state == "absent":
        findings.add("weights-absent", key_path(key), Text(file.about), right, fix=fix, changes=changes)
    elif bare and (file.state != "remote" or file.origin is not None):
        findings.add(
            "weights-names",
            key_path(key),
            Text(f"{shown(named)}, which does not end in .pkl"),
            right,
            fix=fix,
            changes=changes,
        )
    elif file.state == "remote" and file.origin is not None:
        remote = fix and f"download it, and name the copy in {key}"
        findings.add("weights-remote", key_path(key), Text(file.about), right, fix=remote, changes=changes)
    elif file.state != "same":
        right = Text(f"the backbone's, {metadata.fingerprint[:12]}")
        findings.add("weights-other", key_path(key), Text(file.about), right, fix=fix, changes=changes)
    if file.beside:
        findings.note(f"{named} lies beside the configuration; detectron2 looks for it in the working directory")


def _check_data(findings: Findings, cfg: Detectron2Config) -> None:
    train, test = cfg.names("DATASETS.TRAIN"), cfg.names("DATASETS.TEST")
    both = [name for name in test if name in train]
    if both:
        findings.add(
            "test-in-train",
            key_path("DATASETS.TEST"),
            Text(f"{', '.join(both)}, which DATASETS.TRAIN has too"),
            Text("other images"),
            fix="remove it from one of the two",
        )
    if not train:
        return
    key = "MODEL.RETINANET.NUM_CLASSES" if cfg.head == "RetinaNet" else "MODEL.ROI_HEADS.NUM_CLASSES"
    found, unknown = _data_sets(train)
    if unknown:
        findings.add(
            "class-count",
            key_path(key),
            cfg.found(key),
            Text(f"the class count of {', '.join(unknown)}, which is not known here"),
            fix="count the classes of the data set",
            severity="warning",
        )
    elif len({data.classes for data in found}) == 1 and cfg.get(key) != found[0].classes:
        right = found[0].classes
        findings.add("class-count", key_path(key), cfg.found(key), right, changes={key_path(key): right})


def _data_sets(names: Iterable[str]) -> tuple[list[published.DataSet], list[str]]:
    known = {name: published.detectron2_data_set(name) for name in names}
    return [data for data in known.values() if data is not None], [name for name, data in known.items() if data is None]


def _check_schedule(findings: Findings, cfg: Detectron2Config) -> None:
    found, unknown = _data_sets(cfg.names("DATASETS.TRAIN"))
    names = {data.name for data in found}
    if not found or unknown or len(names) > 1:
        return  # a fragment, which leaves the schedule to others, or data of which nothing is published
    batch, iterations = (count(cfg.get(f"SOLVER.{key}")) for key in ("IMS_PER_BATCH", "MAX_ITER"))
    rate = number(cfg.get("SOLVER.BASE_LR"))
    for key, value in (("SOLVER.IMS_PER_BATCH", batch), ("SOLVER.MAX_ITER", iterations), ("SOLVER.BASE_LR", rate)):
        if value is None:
            wanted = Text("a number" if key == "SOLVER.BASE_LR" else "a whole number above 0")
            rule = "learning-rate" if key == "SOLVER.BASE_LR" else "schedule"
            findings.add(rule, key_path(key), cfg.found(key), wanted, fix="write the protocol's")
    if batch is None or rate is None or iterations is None:
        return
    (name,) = names
    known = published.SCHEDULES.get(name, ())
    base = 0.01 if cfg.head == "RetinaNet" else 0.02  # detectron2's Base-RetinaNet.yaml
    right = lengths.linear_rate(base, batch, 16)
    key = "SOLVER.BASE_LR"
    if not lengths.near(rate, right):
        findings.add(
            "learning-rate",
            key_path(key),
            cfg.found(key),
            Text(f"{right:g} for {batch} images ({base:g} for 16)"),
            changes={key_path(key): right},
        )
    steps = sequence(cfg.get("SOLVER.STEPS"))
    if any(step is not None and step >= iterations for step in map(number, steps)):
        findings.add(
            "schedule-end",
            key_path("SOLVER.STEPS"),
            Text(f"{shown(steps)}, with MAX_ITER {iterations}"),
            Text("steps before MAX_ITER"),
            fix="set SOLVER.STEPS and SOLVER.MAX_ITER of one schedule",
        )
    lengths.check_length(
        findings,
        name,
        known,
        lengths.Length(iterations, steps, batch),
        (key_path("SOLVER.MAX_ITER"), key_path("SOLVER.STEPS")),
    )
    key = "SOLVER.WARMUP_ITERS"
    right_warmup = round(published.VOC_WARMUP * 16 / batch)
    if name == "VOC" and cfg.get(key) not in (published.VOC_WARMUP, right_warmup):
        changes: dict[KeyPath, Any] = {key_path(key): right_warmup}
        findings.add("warmup", key_path(key), cfg.found(key), right_warmup, severity="warning", changes=changes)
