"""The rules for the weights that an OpenMMLab configuration names: `init_cfg`, `pretrained` and `load_from`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import to_openmmlab
from converters.lint import weights
from converters.lint.finding import Findings, Text, shown
from converters.lint.finding import Path as KeyPath
from converters.lint.openmmlab_view import BACKBONE, SHARED_HEAD, OpenMMLabConfig, at, kind, listed, mapping
from converters.metadata import BackboneMetadata, Origin

_INIT: KeyPath = (*BACKBONE, "init_cfg")
_CONVERT = "make the file with: moco-transfer convert BACKBONE --to {} -o NAME.pth, and name it in init_cfg"
_DOWNLOAD = "download it, and name the copy in init_cfg"


@dataclass(frozen=True)
class _Case:
    """What the checks of this module share."""

    findings: Findings
    cfg: OpenMMLabConfig
    metadata: BackboneMetadata
    wanted: dict[str, Any] | None
    """The init_cfg that would load the backbone's own file; None where mmengine cannot read that."""

    def add(self, rule: str, found: object, expected: object, fix: str = _CONVERT) -> None:
        """Add a finding about init_cfg that the wanted one cures, or else the user."""
        changes: dict[KeyPath, Any] = {} if self.wanted is None else {_INIT: self.wanted}
        fix = "" if changes else fix.format(self.cfg.framework)
        self.findings.add(rule, _INIT, found, expected, fix=fix or None, changes=changes)


def check(findings: Findings, cfg: OpenMMLabConfig, metadata: BackboneMetadata, source: Path | None) -> None:
    """Whether the backbone's weights get in, and nothing over them."""
    wanted = _init_cfg(source, metadata)
    case = _Case(findings, cfg, metadata, wanted)
    named = [path for path in (("model", "pretrained"), (*BACKBONE, "pretrained")) if at(cfg.values, path)]
    place, given = _pretrained(cfg, _INIT)
    final = given
    if named:
        final = _check_pretrained(case, named, given)
    elif given is None:
        if metadata.origin.family == "random":
            findings.note("no init_cfg: random weights, as the backbone has, but drawn anew")
        else:
            init = at(cfg.values, _INIT)
            found = Text("not set") if init is None else init
            case.add("weights-absent", found, Text("init_cfg=dict(type='Pretrained', ...)"))
            final = wanted
    if given is not None:
        final = _check_init(case, given, place)
    _check_shared_head(findings, cfg, given, final)
    if at(cfg.values, ("load_from",)):
        path: KeyPath = ("load_from",)
        findings.add("load-from", path, at(cfg.values, path), None, changes={path: None})


def _pretrained(cfg: OpenMMLabConfig, path: KeyPath) -> tuple[KeyPath, dict[str, Any] | None]:
    """The init_cfg that loads a file, and where it stands: alone or in a list, whose last one mmengine loads last."""
    found = [pair for pair in listed(cfg.values, path) if kind(pair[1]) in ("Pretrained", "PretrainedInit")]
    return found[-1] if found else (path, None)


def _init_cfg(source: Path | None, metadata: BackboneMetadata) -> dict[str, Any] | None:
    """The init_cfg that loads the backbone's own file, where mmengine can read it."""
    if source is None or source.suffix in weights.NOT_FOR_MMENGINE:
        return None
    init = {"type": "Pretrained", "checkpoint": str(source)}
    origin = metadata.origin
    if source.name != origin.file:
        return init  # one that this toolkit wrote, from another file
    if not weights.names_suit_mmengine(origin):
        return None
    return init | ({"prefix": origin.prefix} if _needed_prefix(origin.prefix) else {})


def _needed_prefix(prefix: str) -> str:
    """What mmengine does not strip by itself."""
    return prefix.removeprefix("module.")


def _check_pretrained(case: _Case, named: list[KeyPath], given: dict[str, Any] | None) -> dict[str, Any] | None:
    """`pretrained` beside an init_cfg is an assertion error; alone it names other weights, or these."""
    value = at(case.cfg.values, named[0])
    changes: dict[KeyPath, Any] = dict.fromkeys(named)
    if given is None:
        file = weights.look_at(str(value), case.cfg.path, case.metadata)
        if file.state == "same" and not _needed_prefix(file.prefix) and file.suits_mmengine:
            return {"type": "Pretrained", "checkpoint": value}
        if case.wanted is not None:
            changes[_INIT] = case.wanted
    fix = "remove it"
    if given is None:
        fix += (
            f", and name the backbone's weights in init_cfg{'' if case.wanted is None else f': {shown(case.wanted)}'}"
        )
    case.findings.add(
        "pretrained",
        named[0],
        value,
        None,
        why=None if given is None else "beside an init_cfg, `pretrained` is an assertion error in the ResNet",
        fix=fix,
        changes=changes,
    )
    if given is None and case.wanted is None:
        case.add("weights-absent", Text("not set"), Text("the backbone's weights"))
    return given or case.wanted


def _check_init(case: _Case, given: dict[str, Any], place: KeyPath) -> dict[str, Any] | None:
    """The file of an init_cfg. Returns the init_cfg that is right as far as known."""
    file = weights.look_at(str(given.get("checkpoint")), case.cfg.path, case.metadata)
    right = Text(f"the backbone's weights, {case.metadata.fingerprint[:12]}")
    if file.beside:
        case.findings.note(
            f"{given['checkpoint']} lies beside the configuration; mmengine looks in the working directory"
        )
    if file.state == "absent":
        case.add("weights-absent", Text(file.about), right)
        origin = case.metadata.origin
        if Path(str(given.get("checkpoint"))).name == origin.file and not case.wanted:
            return _check_prefix(case, given, place, origin.prefix)
        return case.wanted
    namesake = file.state == "remote" and file.origin is not None
    if namesake:
        case.add("weights-remote", Text(file.about), right, fix=_DOWNLOAD)
    if (file.kind or namesake) and not file.suits_mmengine:
        _add_names(case, given, file.kind or "checkpoint", file.origin)
        return case.wanted
    if file.state != "same" and not namesake:
        case.add("weights-other", Text(file.about), right)
        return case.wanted
    return _check_prefix(case, given, place, file.prefix)


def _add_names(case: _Case, given: dict[str, Any], file_kind: str, origin: Origin | None) -> None:
    container = origin.container if origin is not None else ""
    under = f", whose names lie under {container!r}" if container not in ("", "state_dict") else ""
    case.add(
        "weights-names",
        Text(f"{shown(given.get('checkpoint'))}, a file of the kind {file_kind}{under}"),
        Text(f"a {to_openmmlab.SUFFIX} with plain names"),
    )


def _check_prefix(case: _Case, given: dict[str, Any], place: KeyPath, prefix: str) -> dict[str, Any]:
    """A raw checkpoint needs the prefix of its encoder; without one mmengine strips `module.` alone."""
    findings = case.findings
    has = given.get("prefix")
    accepted: set[str | None] = {prefix} if prefix else set()
    if not _needed_prefix(prefix):
        accepted.add(None)
    normal = f"{str(has).removesuffix('.')}." if has else None
    if normal in accepted:
        return given
    path = (*place, "prefix")
    plain = {key: value for key, value in given.items() if key != "prefix"}
    right = plain | ({"prefix": prefix} if prefix else {})
    changes: dict[KeyPath, Any] = {path: prefix} if prefix else {place: right}
    replaced = any(change.path == _INIT for finding in findings.found for change in finding.changes)
    findings.add(
        "init-prefix",
        path,
        Text("not set") if has is None else has,
        prefix or Text("none: the names are plain"),
        fix=f"name {shown(case.wanted)} instead" if replaced else None,
        changes={} if replaced else changes,
    )
    return case.wanted if replaced and case.wanted is not None else right


def _check_shared_head(
    findings: Findings, cfg: OpenMMLabConfig, given: dict[str, Any] | None, final: dict[str, Any] | None
) -> None:
    """res5 of a C4 model: the same file once more.

    Args:
        findings: takes what is wrong.
        cfg: the configuration.
        given: the backbone's init_cfg as it is.
        final: as it should be; None where that is not known.
    """
    head = mapping(cfg.values, SHARED_HEAD)
    if not head or head.get("pretrained"):
        return
    path: KeyPath = (*SHARED_HEAD, "init_cfg")
    right = final or given
    _, loaded = _pretrained(cfg, path)
    if loaded and right is not None and all(loaded.get(key) == right.get(key) for key in ("checkpoint", "prefix")):
        return
    changes: dict[KeyPath, Any] = {} if final is None else {path: final}
    found = head.get("init_cfg", Text("not set"))
    fix = None if changes else "give it the init_cfg of the backbone"
    findings.add("shared-head-weights", path, found, Text("the init_cfg of the backbone"), fix=fix, changes=changes)
