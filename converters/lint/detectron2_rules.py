"""The rules for a detectron2 configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converters import to_detectron2
from converters.architectures import ARCHITECTURES
from converters.lint import published, weights
from converters.lint import schedules as lengths
from converters.lint.detectron2_defaults import DEFAULTS
from converters.lint.finding import Findings, Text
from converters.lint.finding import Path as KeyPath
from converters.lint.input_rules import check_normalisation
from converters.metadata import BackboneMetadata

_SYNCHRONISED = ("SyncBN", "naiveSyncBN", "naiveSyncBN_N")
_EXTRA_NORM = "Res5ROIHeadsExtraNorm"


class Detectron2Config:
    """The settings that a YAML makes, detectron2's defaults included."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        self.content, self.path = content, path

    def get(self, key: str) -> Any:
        """The value of a dotted key: the file's own, or detectron2's default."""
        node: Any = self.content
        for step in key.split("."):
            if not isinstance(node, dict) or step not in node:
                return DEFAULTS.get(key)
            node = node[step]
        return node

    def found(self, key: str) -> Any:
        """The same for a message, which says where a default speaks."""
        node: Any = self.content
        for step in key.split("."):
            node = node.get(step) if isinstance(node, dict) else None
        value = self.get(key)
        return value if node is not None or value is None else Text(f"{value!r} (detectron2's default)")

    def number(self, key: str) -> float | None:
        """A number that is none of yes and no."""
        value = self.get(key)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def names(self, key: str) -> list[str]:
        """The strings of a list."""
        value = self.get(key)
        return [item for item in value if isinstance(item, str)] if isinstance(value, (list, tuple)) else []

    @property
    def head(self) -> str:
        """C4 or FPN, by the backbone's builder; RetinaNet has its own head on an FPN."""
        if self.get("MODEL.META_ARCHITECTURE") == "RetinaNet":
            return "RetinaNet"
        return "FPN" if "fpn" in str(self.get("MODEL.BACKBONE.NAME")) else "C4"


def _path(key: str) -> KeyPath:
    return tuple(key.split("."))


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
    _check_network(findings, cfg, metadata)
    _check_norm(findings, cfg, gpus)
    _check_weights(findings, cfg, metadata, source)
    _check_data(findings, cfg)
    _check_schedule(findings, cfg)
    return findings


def _check_input(findings: Findings, cfg: Detectron2Config, metadata: BackboneMetadata) -> None:
    order = metadata.preprocess.channel_order
    if cfg.get("INPUT.FORMAT") != order:
        key = "INPUT.FORMAT"
        findings.add("channel-order", _path(key), cfg.found(key), order, changes={_path(key): order})
    check_normalisation(
        findings,
        metadata,
        cfg.get("MODEL.PIXEL_MEAN"),
        cfg.get("MODEL.PIXEL_STD"),
        {"mean": [_path("MODEL.PIXEL_MEAN")], "std": [_path("MODEL.PIXEL_STD")]},
    )


def _check_network(findings: Findings, cfg: Detectron2Config, metadata: BackboneMetadata) -> None:
    arch = ARCHITECTURES[metadata.arch]
    for name, expected in to_detectron2.resnet(arch).items():
        key = f"MODEL.RESNETS.{name}"
        if cfg.get(key) != expected:
            findings.add("arch", _path(key), cfg.found(key), expected, changes={_path(key): expected})
    key = "MODEL.RESNETS.STRIDE_IN_1X1"
    if arch.bottleneck and cfg.get(key) is not metadata.stride_in_1x1:
        right = metadata.stride_in_1x1
        findings.add("stride-position", _path(key), cfg.found(key), right, changes={_path(key): right})
    key = "MODEL.RESNETS.STEM_TYPE"
    if cfg.get(key) not in (None, "basic"):
        findings.add("deep-stem", _path(key), cfg.get(key), "basic", changes={_path(key): "basic"})
    key = "MODEL.BACKBONE.NAME"
    if "resnet" not in str(cfg.get(key)) or "deeplab" in str(cfg.get(key)):
        rule = "deep-stem" if "deeplab" in str(cfg.get(key)) else "arch"
        fix = "use build_resnet_backbone, or build_resnet_fpn_backbone"
        findings.add(rule, _path(key), cfg.get(key), Text("a builder of the plain ResNet"), fix=fix)
    key = "MODEL.BACKBONE.FREEZE_AT"
    if cfg.get(key) != 0:
        findings.add("frozen-stages", _path(key), cfg.found(key), 0, changes={_path(key): 0})
    key = "MODEL.ROI_HEADS.NAME"
    if cfg.head == "C4":
        if not arch.bottleneck:
            findings.add(
                "arch",
                _path("MODEL.BACKBONE.NAME"),
                cfg.found("MODEL.BACKBONE.NAME"),
                Text("an FPN: detectron2 builds res5 of a C4 head from bottlenecks alone"),
                fix="begin from Base-RCNN-FPN.yaml",
            )
        elif cfg.get(key) == "Res5ROIHeads":
            findings.add("extra-norm", _path(key), cfg.found(key), _EXTRA_NORM, changes={_path(key): _EXTRA_NORM})
        if cfg.get(key) == _EXTRA_NORM or arch.bottleneck:
            findings.note(f"{_EXTRA_NORM} is known to detectron2 after `import evaluators.detection.heads`")


def _check_norm(findings: Findings, cfg: Detectron2Config, gpus: int | None) -> None:
    one_device = gpus is not None and gpus <= 1
    right = "BN" if one_device else "SyncBN"
    places = ["MODEL.RESNETS.NORM"]
    if cfg.head in ("FPN", "RetinaNet"):
        places.append("MODEL.FPN.NORM")
    places += [
        key
        for key in ("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM", "MODEL.RETINANET.NORM")
        if cfg.get(key) in ("BN", *_SYNCHRONISED)
    ]
    for key in places:
        norm = cfg.get(key)
        changes = {_path(key): right}
        if norm == "FrozenBN":
            findings.add("frozen-bn", _path(key), cfg.found(key), right, changes=changes)
        elif norm in _SYNCHRONISED:
            if one_device:
                device = "a CPU" if gpus == 0 else "one GPU"
                findings.add("sync-bn-one-device", _path(key), norm, Text(f"'BN' on {device}"), changes=changes)
        elif norm == "BN":
            _check_batch_norm(findings, cfg, key, gpus)
        elif key == "MODEL.FPN.NORM":
            findings.add("fpn-norm", _path(key), cfg.found(key), right, changes=changes)
        else:
            findings.add("norm-kind", _path(key), cfg.found(key), right, changes=changes)
    key = "TEST.PRECISE_BN.ENABLED"
    if cfg.get(key) is not True:
        findings.add("precise-bn", _path(key), cfg.found(key), True, changes={_path(key): True})


def _check_batch_norm(findings: Findings, cfg: Detectron2Config, key: str, gpus: int | None) -> None:
    """Plain BN: over all images on one device, over a part of them on each of several."""
    images = cfg.number("SOLVER.IMS_PER_BATCH") or 0
    if gpus is None or gpus > 1:
        share = "of one GPU" if gpus is None else f"over {images / gpus:g} images a GPU"
        fix = f"set {key} to 'SyncBN'" + (", or say --gpus 1 where one GPU trains" if gpus is None else "")
        changes = {_path(key): "SyncBN"}
        findings.add("norm-kind", _path(key), Text(f"'BN' {share}"), "SyncBN", fix=fix, changes=changes)
    elif images < published.FEW_IMAGES and key == "MODEL.RESNETS.NORM":
        findings.add(
            "norm-kind",
            _path(key),
            Text(f"'BN' over {images:g} images"),
            Text(f"at least {published.FEW_IMAGES} images"),
            fix="raise SOLVER.IMS_PER_BATCH, or train on several GPUs with SyncBN",
            severity="warning",
        )


def _check_weights(findings: Findings, cfg: Detectron2Config, metadata: BackboneMetadata, source: Path | None) -> None:
    key = "MODEL.WEIGHTS"
    named = cfg.get(key)
    changes = {_path(key): str(source)} if source is not None and source.suffix == to_detectron2.SUFFIX else {}
    fix = None if changes else "make the file with: moco-transfer convert BACKBONE --to detectron2 -o NAME.pkl"
    right = Text("the backbone's .pkl")
    if not named or not isinstance(named, str):
        if metadata.origin.family == "random":
            findings.note(f"{key} is empty: random weights, as the backbone has, but drawn anew")
        else:
            findings.add("weights-absent", _path(key), cfg.found(key), right, fix=fix, changes=changes)
        return
    if named.strip().lower() == "see instructions":
        # What the reference's own files say; the README gives the weights on the command line.
        findings.note(f"{key} names no file: give it on the command line, as MODEL.WEIGHTS moco.pkl")
        return
    file = weights.look_at(named, cfg.path, metadata)
    bare = not named.partition("?")[0].endswith(to_detectron2.SUFFIX)
    if file.state == "absent":
        findings.add("weights-absent", _path(key), Text(file.about), right, fix=fix, changes=changes)
    elif file.state != "remote" and bare and "matching_heuristics=True" not in named:
        findings.add(
            "weights-names",
            _path(key),
            Text(f"{named!r}, which does not end in .pkl"),
            right,
            fix=fix,
            changes=changes,
        )
    elif file.state != "same":
        right = Text(f"the backbone's, {metadata.fingerprint[:12]}")
        findings.add("weights-other", _path(key), Text(file.about), right, fix=fix, changes=changes)
    if file.beside:
        findings.note(f"{named} lies beside the configuration; detectron2 looks for it in the working directory")


def _check_data(findings: Findings, cfg: Detectron2Config) -> None:
    train, test = cfg.names("DATASETS.TRAIN"), cfg.names("DATASETS.TEST")
    both = [name for name in test if name in train]
    if both:
        findings.add(
            "test-in-train",
            _path("DATASETS.TEST"),
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
            _path(key),
            cfg.found(key),
            Text(f"the class count of {', '.join(unknown)}, which is not known here"),
            fix="count the classes of the data set",
            severity="warning",
        )
    elif len({data.classes for data in found}) == 1 and cfg.get(key) != found[0].classes:
        right = found[0].classes
        findings.add("class-count", _path(key), cfg.found(key), right, changes={_path(key): right})


def _data_sets(names: Iterable[str]) -> tuple[list[published.DataSet], list[str]]:
    known = {name: published.detectron2_data_set(name) for name in names}
    return [data for data in known.values() if data is not None], [name for name, data in known.items() if data is None]


def _check_schedule(findings: Findings, cfg: Detectron2Config) -> None:
    found, unknown = _data_sets(cfg.names("DATASETS.TRAIN"))
    batch, rate, iterations = (cfg.number(f"SOLVER.{key}") for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER"))
    names = {data.name for data in found}
    if not found or unknown or len(names) > 1 or not batch or not rate or not iterations:
        return  # a fragment, which leaves the schedule to others, or data of which nothing is published
    (name,) = names
    known = published.SCHEDULES.get(name, ())
    base = 0.01 if cfg.head == "RetinaNet" else 0.02  # detectron2's Base-RetinaNet.yaml
    right = lengths.linear_rate(base, batch, 16)
    key = "SOLVER.BASE_LR"
    if not lengths.near(rate, right):
        findings.add(
            "learning-rate",
            _path(key),
            cfg.found(key),
            Text(f"{right:g} for {batch:g} images ({base:g} for 16)"),
            changes={_path(key): right},
        )
    steps = cfg.get("SOLVER.STEPS")
    late = [step for step in steps if step >= iterations] if isinstance(steps, (list, tuple)) else []
    if late:
        findings.add(
            "schedule-end",
            _path("SOLVER.STEPS"),
            Text(f"{steps!r}, with MAX_ITER {iterations:g}"),
            Text("steps before MAX_ITER"),
            fix="set SOLVER.STEPS and SOLVER.MAX_ITER of one schedule",
        )
    lengths.check_length(
        findings,
        name,
        known,
        lengths.Length(int(iterations), tuple(steps) if isinstance(steps, (list, tuple)) else (), int(batch)),
        (_path("SOLVER.MAX_ITER"), _path("SOLVER.STEPS")),
    )
    key = "SOLVER.WARMUP_ITERS"
    right_warmup = round(published.VOC_WARMUP * 16 / batch)
    if name == "VOC" and cfg.get(key) not in (published.VOC_WARMUP, right_warmup):
        changes: dict[KeyPath, Any] = {_path(key): right_warmup}
        findings.add("warmup", _path(key), cfg.found(key), right_warmup, severity="warning", changes=changes)
