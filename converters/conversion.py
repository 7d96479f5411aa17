"""Convert a backbone for a framework: weights, fragment and certificate, proved before they appear.

The three files are made in a hidden folder beside their destination and moved out of it once every check has passed, so
a failed or interrupted conversion leaves no output behind.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

from converters import certificate, files, parity, to_detectron2
from converters.backbone import Backbone
from converters.certificate import Certificate, Coverage, Parity, Target, Verdict, WrittenFile
from converters.errors import CheckFailed, UserError
from converters.hashing import sha256_later, sha256_of
from converters.metadata import head_beside
from converters.parity import LiveModel
from converters.targets import TARGETS, Rules
from converters.to_detectron2 import Head

SUFFIXES: dict[Target, str] = {target: rules.suffix for target, rules in TARGETS.items()}
"""Of the weights' file."""


@dataclass(frozen=True)
class Outputs:
    """Where the files of a conversion lie."""

    weights: Path
    fragment: Path | None
    certificate: Path
    head: Path | None = None
    """Beside a backbone file: the projection head, where there is one."""

    def check_free(self, *, force: bool) -> None:
        """Refuse to overwrite.

        Raises:
            UserError: if one of them is there already and `force` is not set, is a folder, or can be nowhere.
        """
        for path in (self.weights, self.fragment, self.certificate, self.head):
            if path is None:
                continue
            with files.faults_of(path):
                is_folder, is_there = path.is_dir(), path.exists()
            if is_folder:
                raise UserError(expected="the name of a file", found="a folder", where=path)
            if is_there and not force:
                raise UserError(
                    expected="no file of this name", found="one", where=path, cure="choose another, or use --force"
                )


def outputs(target: Target, weights: Path) -> Outputs:
    """The names of all files beside the weights.

    Raises:
        UserError: if the suffix of `weights` is not the target's, or its name has characters that end a line.
    """
    if not weights.name.isprintable():
        # The name goes into the fragment, which is code.
        raise UserError(
            expected="a file name of printable characters", found=repr(weights.name), where="--output", cure="rename it"
        )
    if weights.suffix != SUFFIXES[target]:
        raise UserError(
            expected=f"a name that ends in {SUFFIXES[target]} for {target}",
            found=repr(weights.name),
            where="--output",
            cure=f"use {weights.with_suffix(SUFFIXES[target]).name}" if weights.name else "give a file name",
        )
    suffix = TARGETS[target].fragment_suffix
    return Outputs(
        weights=weights,
        fragment=weights.with_suffix(suffix) if suffix else None,
        # With the whole name, so that r18.pkl and r18.pth can lie side by side.
        certificate=weights.with_name(weights.name + certificate.SUFFIX),
        head=head_beside(weights) if TARGETS[target].write_weights == Backbone.save else None,
    )


def convert(
    backbone: Backbone, target: Target, output: Path, *, head: Head | None = None, force: bool = False
) -> Certificate:
    """Write a backbone for `target`, with its fragment and certificate.

    Args:
        backbone: what to convert.
        target: for whom.
        output: the weights' file; the others get its name.
        head: for detectron2: the detector of the fragment.
        force: replace files that exist.

    Raises:
        UserError: for a wrong suffix, files that exist already, a place where none can be, or a head that does not fit.
        CheckFailed: if coverage or parity does not hold, or the disk fills; nothing is written then.
    """
    final = outputs(target, output)
    final.check_free(force=force)
    with files.faults_of(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.stem}.")
    with staging as folder:
        staged = outputs(target, Path(folder) / output.name)
        with files.faults_of(output):
            _write(backbone, target, staged, head)
        paper = certify(backbone, target, staged)
        with files.faults_of(output):
            paper.write(staged.certificate)
            _publish(staged, final)
    return paper


def _publish(staged: Outputs, final: Outputs) -> None:
    """Move the files out; the old certificate goes first, the new one comes last: none lies beside other weights."""
    folder = final.weights.parent
    if final.certificate.exists():
        final.certificate.unlink()
        files.sync_folder(folder)
    if staged.head is not None and final.head is not None:
        # Before the backbone: who finds that finds its head too.
        if staged.head.exists():
            files.move(staged.head, final.head)
        else:
            final.head.unlink(missing_ok=True)
    files.move(staged.weights, final.weights)
    if staged.fragment is not None and final.fragment is not None:
        files.move(staged.fragment, final.fragment)
    files.move(staged.certificate, final.certificate)
    files.sync_folder(folder)


def _write(backbone: Backbone, target: Target, out: Outputs, head: Head | None) -> None:
    rules = TARGETS[target]
    if head is not None and target == "detectron2":
        assert out.fragment is not None
        to_detectron2.write_fragment(backbone.metadata, out.weights.name, out.fragment, head)
    elif rules.write_fragment is not None and out.fragment is not None:
        rules.write_fragment(backbone.metadata, out.weights.name, out.fragment)
    rules.write_weights(backbone, out.weights)


def certify(backbone: Backbone, target: Target, written: Outputs) -> Certificate:
    """Prove that written files hold the backbone, and that their framework computes with them what torchvision does.

    A backbone file belongs to no framework: that it was read back, bit for bit, is all there is to prove.

    Raises:
        CheckFailed: if they do not.
    """
    rules = TARGETS[target]
    digest = sha256_later(written.weights)
    mapped = _read_back(backbone, rules, written.weights)
    absent = [name for name in rules.needs if importlib.util.find_spec(name) is None]
    live: LiveModel | None = None
    verdict: Verdict = "proved"
    why_no_parity = None
    if rules.run is None:
        verdict, why_no_parity = "read back", "a backbone file belongs to no framework"
    elif absent:
        verdict, why_no_parity = "coverage only", f"not installed: {', '.join(absent)}"
    else:
        live = _run(backbone, rules, written)
        _demand_all(backbone, live.loaded, f"the {target} model after its own loader")
    return Certificate(
        verdict=verdict,
        target=target,
        arch=backbone.arch,
        fingerprint=backbone.fingerprint,
        source=backbone.origin,
        weights=WrittenFile(file=written.weights.name, sha256=digest.result()),
        fragment=written.fragment and WrittenFile(file=written.fragment.name, sha256=sha256_of(written.fragment)),
        coverage=Coverage(
            expected=len(backbone.tensors),
            mapped=len(mapped),
            dropped=backbone.origin.dropped,
            loaded=None if live is None else len(live.loaded),
        ),
        parity=None if live is None else _parity(backbone, live),
        why_no_parity=why_no_parity,
        versions=certificate.versions(),
    )


def _read_back(backbone: Backbone, rules: Rules, weights: Path) -> frozenset[str]:
    """The tensors that the written file holds bit for bit: all of them, or CheckFailed."""
    try:
        written = rules.read_weights(weights)
    except UserError as error:
        raise CheckFailed(f"coverage: the written file cannot be read back: {error}") from None
    mapped = parity.identical(backbone, written.tensors)
    _demand_all(backbone, mapped, "the written file")
    if rules.write_weights == Backbone.save and _head_of(written) != _head_of(backbone):
        raise CheckFailed("coverage: the projection head's file does not hold the head")
    if written.metadata != backbone.metadata:
        raise CheckFailed("coverage: the written file's header is not the backbone's")
    return mapped


def _head_of(backbone: Backbone) -> str | None:
    return None if backbone.head is None else backbone.head.fingerprint


def _demand_all(backbone: Backbone, found: frozenset[str], where: str) -> None:
    missing = sorted(backbone.tensors.keys() - found)
    if missing:
        raise CheckFailed(
            f"coverage: {len(missing)} of {len(backbone.tensors)} tensors are not in {where}: {', '.join(missing[:5])}"
        )


def _run(backbone: Backbone, rules: Rules, written: Outputs) -> LiveModel:
    """The files in their framework; torch's random state is left alone."""
    assert rules.run is not None
    assert written.fragment is not None
    with tempfile.TemporaryDirectory() as folder:
        return rules.run(backbone, written.fragment, written.weights, parity.write_picture(Path(folder)))


def _parity(backbone: Backbone, live: LiveModel) -> Parity:
    reference = parity.reference(backbone)
    framework = live.receipt.framework
    return Parity(
        framework=framework,
        picture_sha256=parity.picture_sha256(),
        norm=live.norm,
        bound=parity.BOUND,
        stages=parity.compare(reference, live.stages, framework),
        receipt=live.receipt,
    )
