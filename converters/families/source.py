"""Read the backbone of any known checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from converters import architectures, projection, to_detectron2, to_openmmlab, to_torchvision, untrusted
from converters.backbone import Backbone, check_tensors
from converters.errors import UserError
from converters.families import content as contents
from converters.families import matching, refusal, said
from converters.families.choice import LAYOUTS, choose
from converters.families.matching import Candidate
from converters.families.reading import Reading
from converters.fingerprint import BATCH_COUNTER
from converters.metadata import FORMAT, Origin, safetensors_header
from converters.seed import parse_seed
from converters.settings import nearest

Kind = Literal["backbone", "detectron2", "openmmlab", "torchvision", "checkpoint"]
"""What a file is: one of the four that this toolkit writes, or a checkpoint to be told by its family."""

RANDOM = "random"
BACKBONE = "backbone"

_EPS = 1e-5
"""Of every batch norm in these networks."""


def names() -> list[str]:
    """What `family` may be."""
    return sorted({layout.family for layout in LAYOUTS} | {BACKBONE})


def read_source(source: str, how: Reading | None = None) -> Backbone:
    """The backbone of a command line's SOURCE: a path, or `random:ARCH` or `random:ARCH:SEED`.

    Raises:
        UserError: as for `read`, and for a malformed `random:`.
    """
    kind, colon, rest = source.partition(":")
    if kind != RANDOM or not colon:
        return read(Path(source), how)
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


def read(path: Path, how: Reading | None = None) -> Backbone:
    """Read the backbone of any known checkpoint; see `identify`."""
    return identify(path, how)[1]


def identify(path: Path, how: Reading | None = None) -> tuple[Kind, Backbone]:
    """Read the backbone of any known checkpoint, and say what kind of file it is in.

    Args:
        path: the file.
        how: what is declared of it; everything else is told from its keys, its shapes and what it says of itself.

    Raises:
        UserError: if the file cannot be read, holds no known encoder or several readings that differ, a tensor that no
            rule accounts for, or one whose shape, type or value is not that of a ResNet.
    """
    how = how or Reading()
    if how.family is not None and how.family not in names():
        raise UserError(
            expected="a known family", found=repr(how.family), where="--family", cure=nearest(how.family, names())
        )
    kind, file = _recognise(path)
    if kind != "checkpoint" and how not in (Reading(), Reading(family=BACKBONE)):
        raise UserError(
            expected="no --family, --encoder or --prefix for a file that says how it is read",
            found=f"our own {kind} file",
            where=path,
        )
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
    if how.family == BACKBONE:
        raise UserError(expected="a backbone file of this toolkit", found="another checkpoint", where=path)
    return kind, of_content(file, how)


def _recognise(path: Path) -> tuple[Kind, untrusted.CheckpointFile | None]:
    """The kind of a file, and its content where it had to be loaded to tell.

    Raises:
        UserError: if it cannot be read.
    """
    untrusted.head_of(path)
    if (safetensors_header(path) or {}).get("format") == FORMAT:
        return "backbone", None
    file = untrusted.load(path, hashed=True)
    if to_detectron2.header(file.content):
        return "detectron2", file
    if to_openmmlab.header(file.content):
        return "openmmlab", file
    return ("torchvision" if to_torchvision.header(file.content) else "checkpoint"), file


def of_content(file: untrusted.CheckpointFile, how: Reading) -> Backbone:
    """The backbone of a checkpoint of others that has been loaded; errors as for `identify`."""
    content = contents.read(file.path, file.sha256, file.content)
    candidate = choose(content, how)
    network = refusal.stem(candidate)
    if network is not None:
        raise refusal.of(network, file.path)
    arch = architectures.infer(candidate.tensors, file.path)
    if how.family is None:
        refusal.check_arch(content, arch)
    tensors, filled = _completed(arch, candidate, file.path)
    preprocess, stride_in_1x1 = said.settings(candidate, content, arch, how)
    about = content.top
    return Backbone(
        arch,
        tensors,
        Origin(
            file=file.path.name,
            sha256=file.sha256,
            family=matching.DECLARED if how.prefix is not None and how.family is None else candidate.layout.family,
            container=candidate.found.container,
            prefix=candidate.prefix,
            encoder=candidate.encoder,
            method=_method(candidate, about),
            epochs=_whole(about.get("epoch")),
            pretrain_seed=_whole(about.get("seed")),
            recipe=_recipe(about.get("recipe")),
            pretrain_data=_identity(about.get("data"), "fingerprint"),
            dropped=dict(sorted(candidate.dropped.items())),
            filled=filled,
        ),
        preprocess,
        stride_in_1x1,
        projection.recognised(candidate.head, architectures.architecture(arch).feature_dim, str(file.path)),
    )


def _method(candidate: Candidate, about: Mapping[str, Any]) -> str:
    mechanism = _identity(about.get("recipe"), "mechanism")  # in this project's own checkpoints
    return matching.method(candidate) if mechanism in ("", "queue") else mechanism


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


def _completed(arch: str, candidate: Candidate, where: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A copy in torchvision's order, with what the family leaves out filled in, and how many by which rule."""
    expected = architectures.expected_shapes(arch)
    tensors = dict(candidate.tensors)
    filled = Counter[str]()
    statistics = [name for name in expected if name.endswith(("running_mean", "running_var"))]
    # Scale and shift alone: statistics with which a batch norm in eval mode is exactly that affine map, as 1/sqrt(var +
    # eps) is 1 in float32.
    affine = candidate.layout.naming == "caffe2" and not any(name in tensors for name in statistics)
    for name, shape in expected.items():
        if name in tensors:
            continue
        if name.endswith(BATCH_COUNTER):
            tensors[name] = torch.zeros((), dtype=torch.int64)
            filled["batch counter 0"] += 1
        elif affine and name.endswith("running_mean"):
            tensors[name] = torch.zeros(shape)
            filled["running mean 0"] += 1
        elif affine and name.endswith("running_var"):
            tensors[name] = torch.full(shape, 1 - _EPS)
            filled["running variance 1 - 1e-05"] += 1
    unexpected, missing = sorted(tensors.keys() - expected.keys()), sorted(expected.keys() - tensors.keys())
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
    completed = {name: tensors[name] for name in expected}
    # Before the copy: a tensor of a few bytes can claim any shape.
    check_tensors(arch, completed, where)
    # A copy of its own: the file's tensors are mapped from disk and share storage with what is dropped.
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in completed.items()}
    return copies, dict(sorted(filled.items()))
