"""Convert many checkpoints in one call: one that fails does not stop the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters import conversion
from converters.backbone import Backbone
from converters.certificate import Certificate, Target
from converters.conversion import Outputs
from converters.errors import CheckFailed, UserError
from converters.to_detectron2 import Head

_SUFFIXES = re.compile(r"(\.(pth|pt|tar|ckpt|torch|pkl|bin|safetensors))+$")


@dataclass(frozen=True)
class Task:
    """One source and the files that it becomes."""

    source: str
    outputs: tuple[tuple[Target, Outputs], ...]


@dataclass(frozen=True)
class Done:
    """What became of one task."""

    task: Task
    papers: tuple[Certificate, ...] = ()
    """Of the targets that were written, in their order; it fails at the first that cannot be."""
    failure: str = ""
    """One line."""


def plan(sources: Sequence[str], targets: Sequence[Target], output: Path, *, folder: bool) -> list[Task]:
    """Name every file before any is made.

    Args:
        sources: checkpoints, or `random:ARCH:SEED`.
        targets: for whom; each once.
        output: the weights' file of the only source and target, or the folder of all.
        folder: whether `output` is the folder; the files in it are called as their sources.

    Raises:
        UserError: for a wrong suffix, a file where a folder is needed, two sources of one name, or an output that is a
            source.
    """
    if not folder and (len(sources) > 1 or len(targets) > 1):
        raise UserError(
            expected="a folder for several files", found=str(output), where="--output", cure=f"use {output.stem}/"
        )
    tasks: list[Task] = []
    taken: dict[Path, str] = {}
    for source in sources:
        named = [(target, _file_of(source, target, output) if folder else output) for target in targets]
        task = Task(source, tuple((target, conversion.outputs(target, path)) for target, path in named))
        tasks.append(task)
        for weights in {files.weights for _, files in task.outputs}:
            if weights in taken:
                found = f"{taken[weights]} and {source}, which would both become {weights}"
                raise UserError(expected="sources of different names", found=found, cure="convert them one by one")
            taken[weights] = source
            if weights.resolve() == Path(source).resolve():
                raise UserError(expected="an output beside the source", found="the source itself", where=weights)
        if len({files.weights for _, files in task.outputs}) < len(targets):
            raise UserError(
                expected="targets whose files have different names",
                found=", ".join(targets),
                where="--to",
                cure="convert for each of them into a folder of its own",
            )
    return tasks


def _file_of(source: str, target: Target, folder: Path) -> Path:
    name = source.replace(":", "-") if source.startswith("random:") else _SUFFIXES.sub("", Path(source).name)
    return folder / (name + conversion.SUFFIXES[target])


def convert_one(
    task: Task, read: Callable[[str], Backbone], *, head: Head | None = None, force: bool = False
) -> Iterator[Certificate]:
    """Read the source once and write it for each of its targets; what was finished is kept where a later one fails.

    Args:
        task: of `plan`.
        read: how a source is read.
        head: of detectron2's fragment; see `converters.conversion.convert`.
        force: replace files that exist.

    Raises:
        UserError, CheckFailed: see `converters.conversion.convert`.
    """
    for _, files in task.outputs:
        files.check_free(force=force)
    backbone = read(task.source)
    for target, files in task.outputs:
        chosen = head if target == "detectron2" else None
        yield conversion.convert(backbone, target, files.weights, head=chosen, force=force)


def convert(
    tasks: Sequence[Task], read: Callable[[str], Backbone], *, head: Head | None = None, force: bool = False
) -> Iterator[Done]:
    """Do one task after the other, whatever becomes of each; arguments as for `convert_one`."""
    for task in tasks:
        papers: list[Certificate] = []
        failure = ""
        try:
            for paper in convert_one(task, read, head=head, force=force):
                papers.append(paper)  # noqa: PERF402 - those before a failure count
        except (UserError, CheckFailed) as error:
            failure = str(error)
        yield Done(task, tuple(papers), failure)
