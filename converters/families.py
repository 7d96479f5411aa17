"""How each family of checkpoints is read: a table of prefixes and named drop rules, matched on keys and shapes.

The file name says nothing here. Every tensor of a file is used, or dropped under a rule with a name, or the read fails
and names it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from converters import architectures, to_detectron2, to_openmmlab, to_torchvision, untrusted
from converters.backbone import BATCH_COUNTER, Backbone, check_tensors
from converters.errors import UserError
from converters.metadata import FORMAT, Origin, safetensors_header
from converters.seed import parse_seed
from converters.settings import nearest

Kind = Literal["backbone", "detectron2", "openmmlab", "torchvision", "checkpoint"]
"""What a file is: one of the four that this toolkit writes, or a checkpoint to be told by its family."""

RANDOM = "random"
BACKBONE = "backbone"

_FIRST = "conv1.weight"
"""Every ResNet has this tensor: what stands before it in a name is the prefix."""


@dataclass(frozen=True)
class Drop:
    """A rule under which tensors are left out."""

    rule: str
    pattern: str
    """A regular expression for the whole name."""


@dataclass(frozen=True)
class Family:
    """One layout of checkpoints."""

    name: str
    container: str
    """The key below which the tensors lie; empty where they are the file's own content."""
    prefix: str
    """Stripped from the encoder's names."""
    drops: tuple[Drop, ...]


# facebookresearch/moco@7397dfe, moco/builder.py: encoder_q, encoder_k, queue and queue_ptr of one module, whose heads
# are `fc`; main_moco.py saves it inside DistributedDataParallel, hence `module.`.
_MOCO_DROPS = (
    Drop("projection head", r"(module\.)?encoder_q\.fc\..*"),
    Drop("key encoder", r"(module\.)?encoder_k\..*"),
    Drop("queue", r"(module\.)?queue(_ptr)?"),
    Drop("memory bank", r"(module\.)?bank"),  # ours, for the mechanism that He et al. 2020 compare MoCo with
)
_CLASSIFIER = (Drop("classifier", r"fc\.(weight|bias)"),)

FAMILIES = (
    Family("moco", "state_dict", "module.encoder_q.", _MOCO_DROPS),
    Family("moco", "state_dict", "encoder_q.", _MOCO_DROPS),
    Family("torchvision", "", "", _CLASSIFIER),
    Family("torchvision", "state_dict", "", _CLASSIFIER),
)
"""This project's own checkpoints have the layout of `moco`. Backbone files are read by their header instead."""


def names() -> list[str]:
    """What `family` may be."""
    return sorted({family.name for family in FAMILIES} | {BACKBONE})


def read_source(source: str, family: str | None = None) -> Backbone:
    """The backbone of a command line's SOURCE: a path, or `random:ARCH` or `random:ARCH:SEED`.

    Raises:
        UserError: as for `read`, and for a malformed `random:`.
    """
    kind, colon, rest = source.partition(":")
    if kind != RANDOM or not colon:
        return read(Path(source), family)
    arch, _, seed = rest.partition(":")
    return random_backbone(arch, parse_seed(seed, "random:ARCH:SEED") if seed else 0)


def random_backbone(arch: str, seed: int) -> Backbone:
    """The random initialisation of torchvision: the same weights for the same seed; no generator is disturbed.

    Raises:
        UserError: for an unknown `arch`.
    """
    # fork_rng saves and restores the CPU's generator; seeding that one alone leaves those of GPUs as they are.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = architectures.build(arch)
    tensors = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("fc.")}
    return Backbone(arch, tensors, Origin(file=f"random:{arch}:{seed}", sha256="", family=RANDOM, pretrain_seed=seed))


def read(path: Path, family: str | None = None) -> Backbone:
    """Read the backbone of any known checkpoint; see `identify`."""
    return identify(path, family)[1]


def identify(path: Path, family: str | None = None) -> tuple[Kind, Backbone]:
    """Read the backbone of any known checkpoint, and say what kind of file it is in.

    Args:
        path: the file.
        family: one of `names()`; told from the keys where None. `backbone` stands for the files that this toolkit
            writes: backbone files, and weights for the frameworks.

    Raises:
        UserError: if the file cannot be read, holds no known encoder or several, a tensor that no rule accounts for, or
            one whose shape, type or value is not that of a ResNet.
    """
    if family is not None and family not in names():
        raise UserError(expected="a known family", found=repr(family), where="--family", cure=nearest(family, names()))
    kind, file = _recognise(path)
    if kind != "checkpoint" and family not in (None, BACKBONE):
        raise UserError(expected=f"a file of the family {family}", found=f"our own {kind} file", where=path)
    if kind == "backbone":
        return kind, Backbone.load(path)
    assert file is not None
    match kind:
        case "detectron2":
            return kind, to_detectron2.of_content(file.content, path)
        case "openmmlab":
            return kind, to_openmmlab.of_content(file.content, path)
        case "torchvision":
            return kind, to_torchvision.of_content(file.content, path)
    return kind, _from_checkpoint(file, _detect(file, family))


def _recognise(path: Path) -> tuple[Kind, untrusted.CheckpointFile | None]:
    """The kind of a file, and its content where it had to be loaded to tell.

    Raises:
        UserError: if it cannot be read.
    """
    untrusted.head_of(path)
    if (safetensors_header(path) or {}).get("format") == FORMAT:
        return "backbone", None
    file = untrusted.load(path)
    if to_detectron2.header(file.content):
        return "detectron2", file
    if to_openmmlab.header(file.content):
        return "openmmlab", file
    return ("torchvision" if to_torchvision.header(file.content) else "checkpoint"), file


def _containers(content: object) -> dict[str, Mapping[str, Tensor]]:
    """Where tensors lie in the file: key (empty for the content itself) -> the tensors with string names there."""
    found: dict[str, Mapping[str, Tensor]] = {}
    if isinstance(content, Mapping):
        for key in ("", *(family.container for family in FAMILIES)):
            inner = content.get(key) if key else content
            if isinstance(inner, Mapping):
                tensors = {name: v for name, v in inner.items() if isinstance(name, str) and isinstance(v, Tensor)}
                if tensors:
                    found[key] = tensors
    return found


def _detect(file: untrusted.CheckpointFile, wanted: str | None) -> Family:
    containers = _containers(file.content)
    candidates = [
        family
        for family in FAMILIES
        if family.prefix + _FIRST in containers.get(family.container, {}) and wanted in (None, family.name)
    ]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = ", ".join(f"{c.name} ({_address(c)})" for c in candidates)
        several = len({candidate.name for candidate in candidates}) > 1
        raise UserError(
            expected="one encoder",
            found=f"several: {listed}",
            where=file.path,
            cure="choose with --family" if several else "remove one from the file",
        )
    raise UserError(
        expected="a ResNet encoder" + (f" of the family {wanted}" if wanted else ""),
        found=_prefixes_found(containers),
        where=file.path,
        cure="known places: " + ", ".join(f"{f.name} ({_address(f)})" for f in FAMILIES),
    )


def _address(family: Family) -> str:
    return f"{family.container or 'top level'}: {family.prefix}{_FIRST}"


def _prefixes_found(containers: Mapping[str, Mapping[str, Tensor]]) -> str:
    """What is there instead, in a few words."""
    if not containers:
        return "no named tensors"
    encoders, groups = [], Counter[str]()
    for tensors in containers.values():
        for name in tensors:
            if name.endswith(_FIRST) and not re.search(r"layer\d+\.\d+\.conv1\.weight$", name):
                encoders.append(name.removesuffix(_FIRST))
            groups[name.split(".", 1)[0] + "." * ("." in name)] += 1
    if encoders:
        return "encoders under other prefixes: " + ", ".join(sorted(repr(prefix) for prefix in encoders)[:5])
    return "only tensors under: " + ", ".join(f"{name} ({count})" for name, count in groups.most_common(5))


def _from_checkpoint(file: untrusted.CheckpointFile, family: Family) -> Backbone:
    content = file.content[family.container] if family.container else file.content
    tensors: dict[str, Tensor] = {}
    dropped: Counter[str] = Counter()
    for name, value in content.items():
        rule = next((drop.rule for drop in family.drops if re.fullmatch(drop.pattern, str(name))), None)
        if rule is not None:
            dropped[rule] += 1
        elif isinstance(name, str) and isinstance(value, Tensor) and name.startswith(family.prefix):
            tensors[name.removeprefix(family.prefix)] = value
        else:
            raise UserError(
                expected=f"tensors of the family {family.name} only",
                found=f"{name!r}, which no rule accounts for" + ("" if isinstance(value, Tensor) else " (no tensor)"),
                where=file.path,
            )
    arch = architectures.infer(tensors, file.path)
    about = file.content if family.container else {}
    return Backbone(
        arch,
        _completed(arch, tensors, file.path),
        Origin(
            file=file.path.name,
            sha256=file.sha256,
            family=family.name,
            prefix=family.prefix,
            method=_method(family, content, about),
            epochs=_whole(about.get("epoch")),
            pretrain_seed=_whole(about.get("seed")),
            recipe=_recipe(about.get("recipe")),
            pretrain_data=_identity(about.get("data"), "fingerprint"),
            dropped=dict(sorted(dropped.items())),
        ),
    )


def _method(family: Family, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """v2 has an MLP head of two layers, v1 a single one (moco@7397dfe, moco/builder.py)."""
    if family.name != "moco":
        return ""
    mechanism = _identity(about.get("recipe"), "mechanism")
    if mechanism not in ("", "queue"):
        return mechanism
    return "MoCo v2" if f"{family.prefix}fc.2.weight" in tensors else "MoCo v1"


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _recipe(value: object) -> str:
    """The id of the recipe, and beside it what was changed: a modified recipe must not pass for the declared one."""
    name = _identity(value, "id", "name")
    overrides = value.get("overrides") if isinstance(value, Mapping) else None
    return f"{name} ({', '.join(map(str, overrides))})" if name and isinstance(overrides, list) and overrides else name


def _identity(value: object, *keys: str) -> str:
    """A string, or the first of `keys` in a mapping that holds one; empty where there is none."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in keys if isinstance(value.get(key), str)), "")
    return value if isinstance(value, str) else ""


def _completed(arch: str, tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """A copy in torchvision's order, with absent batch counters filled with 0; names and shapes are proved."""
    expected = architectures.expected_shapes(arch)
    unexpected = sorted(tensors.keys() - expected.keys())
    missing = sorted(name for name in expected.keys() - tensors.keys() if not name.endswith(BATCH_COUNTER))
    if unexpected or missing:
        raise UserError(
            expected=f"the {len(expected)} tensors of {arch}",
            found="; ".join(
                f"{len(found)} {word}, as {found[0]!r}"
                for word, found in (("unknown", unexpected), ("missing", missing))
                if found
            ),
            where=where,
        )
    completed = {name: tensors.get(name, torch.zeros((), dtype=torch.int64)) for name in expected}
    # Before the copy: a tensor of a few bytes can claim any shape.
    check_tensors(arch, completed, where)
    # A copy of its own: the file's tensors are mapped from disk and share storage with what is dropped.
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in completed.items()}
