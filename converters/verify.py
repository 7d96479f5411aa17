"""Repeat the proof of a conversion on the files as they lie there now.

Nothing in the files is run. A Python fragment is code, and whoever can change it can change its certificate too: so its
text is compared, and the framework is given a fragment that is written anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from converters import certificate, conversion, families, to_detectron2
from converters.backbone import Backbone
from converters.certificate import Certificate, WrittenFile
from converters.conversion import Outputs
from converters.errors import CheckFailed, UserError
from converters.families import Reading
from converters.families.matching import DECLARED
from converters.hashing import sha256_of
from converters.settings import Settings
from converters.targets import TARGETS


class Verification(Settings):
    """What was seen. It exists only where every check held."""

    certificate: Certificate
    """As it was found."""
    repeated: Certificate
    """The same proof, made now."""
    notes: tuple[str, ...] = ()
    """What could not be repeated, and why; versions that differ."""


def verify(path: Path, source: Path | None = None) -> Verification:
    """Prove a conversion once more.

    Args:
        path: its weights, or its certificate.
        source: the checkpoint that it was made from, to read it again and prove that too.

    Raises:
        UserError: if the file or its certificate is absent, or its name is none that `convert` gives.
        CheckFailed: if anything is not as the certificate says: a byte of a file, the tensors, the framework's outputs.
    """
    weights, papers = _names(path)
    paper = _undamaged(papers)
    written = conversion.outputs(paper.target, weights)
    for file, listed in ((written.weights, paper.weights), (written.fragment, paper.fragment)):
        # A fragment names its weights: under another name it would load something else, or nothing.
        if (file and file.name) != (listed and listed.file):
            raise CheckFailed(
                f"verify: {file}: expected the name {(listed and listed.file)!r} under which it was written, found "
                "another; rename all three files back, or convert anew"
            )
    _same_bytes(weights, paper.weights, papers)
    if source is not None:
        _same_bytes(source, WrittenFile(file=paper.source.file, sha256=paper.source.sha256), papers)
    try:
        backbone = TARGETS[paper.target].read_weights(weights)
    except UserError as error:
        raise CheckFailed(f"verify: {error}") from None
    for what, expected, found in (
        ("fingerprint", paper.fingerprint, backbone.fingerprint),
        ("arch", paper.arch, backbone.arch),
        ("origin", paper.source, backbone.origin),
    ):
        if expected != found:
            raise CheckFailed(f"verify: {weights}: expected the certificate's {what} {expected}, found {found}")
    if source is not None:
        _same_source(source, backbone)
    with tempfile.TemporaryDirectory() as folder:
        fragment, notes = _fragment(paper, backbone, written, Path(folder))
        repeated = conversion.certify(backbone, paper.target, Outputs(weights, fragment, papers))
    return Verification(certificate=paper, repeated=repeated, notes=(*notes, *_compared(paper, repeated, papers)))


def _names(path: Path) -> tuple[Path, Path]:
    """The weights and their certificate, of which `path` is one."""
    if path.name.endswith(certificate.SUFFIX):
        weights, papers = path.with_name(path.name.removesuffix(certificate.SUFFIX)), path
    else:
        weights, papers = path, path.with_name(path.name + certificate.SUFFIX)
    if not weights.is_file():
        raise UserError(expected="the weights of a conversion", found="no such file", where=weights)
    if not papers.is_file():
        cure = "only what `moco-transfer convert` wrote can be verified; see what this is with: moco-transfer inspect"
        raise UserError(expected="its certificate beside it", found=f"no {papers.name}", where=path, cure=cure)
    return weights, papers


def _undamaged(papers: Path) -> Certificate:
    try:
        return certificate.read(papers)
    except UserError as error:
        raise CheckFailed(f"verify: {error}") from None


def _same_source(source: Path, backbone: Backbone) -> None:
    """Read the source as it was read for the conversion: it must give the same tensors."""
    origin = backbone.origin
    declared = origin.family == DECLARED
    how = Reading(
        family=None if declared else origin.family,
        encoder=origin.encoder or None,
        prefix=origin.prefix if declared else None,
    )
    try:
        again = families.read(source, how)
    except UserError as error:
        raise CheckFailed(f"verify: {error}") from None
    if again.fingerprint != backbone.fingerprint:
        raise CheckFailed(
            f"verify: {source}: expected the fingerprint {backbone.fingerprint[:12]} of the converted weights, found "
            f"{again.fingerprint[:12]}"
        )


def _same_bytes(file: Path, written: WrittenFile, papers: Path) -> None:
    if not file.is_file():
        raise UserError(expected=f"the file that {papers.name} names", found="none", where=file)
    found = sha256_of(file)
    if found != written.sha256:
        raise CheckFailed(
            f"verify: {file}: expected the sha256 {written.sha256[:12] or '(none)'} of {papers.name}, "
            f"found {found[:12]}: it is another file, or was changed"
        )


def _fragment(paper: Certificate, backbone: Backbone, written: Outputs, folder: Path) -> tuple[Path | None, list[str]]:
    """A fragment of our own making that says what the certified one says, and what there is to remark on it."""
    found = written.fragment
    if paper.fragment is None or found is None:
        return None, []
    _same_bytes(found, paper.fragment, written.certificate)
    for head in ("C4", "FPN") if paper.target == "detectron2" else (None,):
        mine = folder / found.name
        try:
            if head is not None:
                to_detectron2.write_fragment(backbone.metadata, paper.weights.file, mine, head)
            else:
                write = TARGETS[paper.target].write_fragment
                assert write is not None, "a target with a fragment writes it"
                write(backbone.metadata, paper.weights.file, mine)
        except UserError:
            continue  # a head that this architecture cannot have
        if mine.read_bytes() == found.read_bytes():
            return mine, []
    written_by, now = paper.versions.get("moco-transfer"), certificate.versions().get("moco-transfer")
    if written_by == now:
        raise CheckFailed(f"verify: {found}: expected the fragment that moco-transfer {now} writes, found another text")
    return mine, [f"the fragment is moco-transfer {written_by}'s; the proof was repeated with the one of {now}"]


def _compared(paper: Certificate, repeated: Certificate, papers: Path) -> list[str]:
    """Remarks on two certificates of the same files; CheckFailed where they contradict each other."""
    if paper.coverage != repeated.coverage and None not in (paper.coverage.loaded, repeated.coverage.loaded):
        raise CheckFailed(f"verify: {papers}: expected {paper.coverage}, found {repeated.coverage}")
    notes = []
    if paper.parity and repeated.parity:
        for what in ("framework", "picture_sha256", "receipt"):
            expected, found = getattr(paper.parity, what), getattr(repeated.parity, what)
            if expected != found:
                raise CheckFailed(f"verify: {papers}: expected the {what} {expected}, found {found}")
    elif paper.parity:
        notes.append(f"parity could not be repeated ({repeated.why_no_parity})")
    elif repeated.parity:
        notes.append("the certificate says coverage only; parity was proved now")
    changed = [
        f"{package} {version} -> {repeated.versions.get(package, 'not installed')}"
        for package, version in paper.versions.items()
        if repeated.versions.get(package) != version
    ]
    return [*notes, *([f"other versions now: {', '.join(changed)}"] if changed else [])]
