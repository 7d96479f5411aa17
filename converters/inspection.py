"""What a file is: a checkpoint, a backbone, weights for a framework, or a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from converters import certificate, families, untrusted
from converters.certificate import Certificate
from converters.errors import printable
from converters.families import Kind, Reading
from converters.metadata import BackboneMetadata, Origin
from converters.settings import Settings


class Inspection(Settings):
    """What was found; `metadata` for weights, `certificate` for a certificate."""

    file: str
    """As it was given."""
    kind: Kind | Literal["certificate"]
    tensors: int = 0
    """Of the backbone, batch counters included: 318 for ResNet-50."""
    metadata: BackboneMetadata | None = None
    certificate: Certificate | None = None

    def lines(self) -> list[str]:
        """For people: a label and a value on each line."""
        rows = [("file", self.file), ("kind", _KINDS[self.kind])]
        if self.metadata is not None:
            rows += _about_weights(self.metadata, self.tensors)
        if self.certificate is not None:
            rows += about_certificate(self.certificate)
        width = max(len(label) for label, _ in rows)
        return [f"{label:<{width}}  {printable(value)}" for label, value in rows]


_KINDS: dict[str, str] = {
    "backbone": "backbone file of moco-transfer",
    "detectron2": "weights for detectron2",
    "openmmlab": "weights for mmsegmentation, mmdetection and mmpretrain",
    "torchvision": "weights for torchvision",
    "checkpoint": "checkpoint",
    "certificate": "certificate of a conversion",
}


def inspect(source: str, how: Reading | None = None) -> Inspection:
    """Read the file at the path `source` to its end and say what it is.

    Raises:
        UserError: if it is none of the kinds known, damaged, or not what it says.
    """
    path = Path(source)
    if untrusted.head_of(path).lstrip().startswith(b"{"):
        return Inspection(file=source, kind="certificate", certificate=certificate.read(path))
    kind, backbone = families.identify(path, how)
    return Inspection(file=source, kind=kind, tensors=len(backbone.tensors), metadata=backbone.metadata)


def _about_weights(metadata: BackboneMetadata, tensors: int) -> list[tuple[str, str]]:
    origin = metadata.origin
    preprocess = metadata.preprocess
    low, high = preprocess.value_range
    rows = [
        ("arch", metadata.arch + (", stride in 1x1" if metadata.stride_in_1x1 else "")),
        ("family", origin.family),
    ]
    if where := _where(origin):
        rows.append(("encoder", where))
    facts = [
        origin.method,
        f"{origin.epochs} epochs" if origin.epochs is not None else "",
        f"recipe {origin.recipe}" if origin.recipe else "",
        f"seed {origin.pretrain_seed}" if origin.pretrain_seed is not None else "",
    ]
    if any(facts):
        rows.append(("method", ", ".join(fact for fact in facts if fact)))
    if origin.pretrain_data:
        rows.append(("data", origin.pretrain_data))
    return [
        *rows,
        ("tensors", f"{tensors} used" + dropped(origin.dropped) + dropped(origin.filled, "filled")),
        ("fingerprint", metadata.fingerprint),
        (
            "preprocess",
            f"{preprocess.channel_order}, mean {_plain(preprocess.mean)}, std {_plain(preprocess.std)} "
            f"on values from {low:g} to {high:g}",
        ),
        ("source", origin.file + (f" (sha256 {origin.sha256[:12]})" if origin.sha256 else "")),
    ]


def about_certificate(paper: Certificate) -> list[tuple[str, str]]:
    """A certificate's rows: label and value."""
    coverage = paper.coverage
    loaded = "" if coverage.loaded is None else f", {coverage.loaded} in the live model after its own loader"
    rows = [
        ("target", paper.target),
        ("arch", paper.arch),
        ("fingerprint", paper.fingerprint),
        ("source", paper.source.file + dropped(paper.source.dropped)),
        ("coverage", f"{coverage.mapped} of {coverage.expected} tensors{loaded}"),
    ]
    if paper.parity is not None:
        stages = ", ".join(f"{row.stage} {row.relative:.1e}" for row in paper.parity.stages)
        rows.append(("parity", f"{stages} (|Δ| / largest activation, at most {paper.parity.bound:.0e})"))
    rows.append(("verdict", paper.verdict + (f" ({paper.why_no_parity})" if paper.why_no_parity else "")))
    return [(label, printable(value)) for label, value in rows]


def dropped(rules: dict[str, int], word: str = "dropped") -> str:
    """`; dropped: key encoder 124, queue 2`, or nothing."""
    return f"; {word}: " + ", ".join(f"{rule} {count}" for rule, count in rules.items()) if rules else ""


_ENCODERS = {"q": "q, the trained one", "k": "k, the averaged one"}


def _where(origin: Origin) -> str:
    """Which encoder was read, and where in the file it was."""
    words = [
        _ENCODERS.get(origin.encoder, ""),
        f"below {origin.container}" if origin.container else "",
        f"prefix {origin.prefix}" if origin.prefix else "",
    ]
    other = {"q": "key encoder", "k": "query encoder"}.get(origin.encoder)
    if other in origin.dropped:
        words.append(f"the other one with --encoder {'k' if origin.encoder == 'q' else 'q'}")
    return ", ".join(word for word in words if word)


def _plain(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
