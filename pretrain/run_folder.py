"""The folder of a run: taken by one run at a time, written whole, and what stands for it at the end."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from converters import families, hashing
from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.lock import exclusive
from converters.metadata import head_beside
from pretrain import checkpoint
from pretrain.checkpoint import Position

BACKBONE = "backbone.safetensors"
CSV = "log.csv"
SKIPPED = "skipped.csv"
PLOT = "log.png"
TENSORBOARD = "tensorboard"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn an `OSError` met while writing into one of ours.

    Raises:
        CheckFailed: if the disk or a quota is full.
        UserError: if `out` is no place to write to.
    """
    try:
        yield
    except OSError as error:
        path = error.filename or out
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckFailed(f"{path}: could not be written ({error.strerror})") from error
        raise UserError(
            expected="a folder to write to",
            found=error.strerror or str(error),
            where=path,
            cure="choose another path with -o",
        ) from None


def take(out: Path, held: contextlib.ExitStack, *, force: bool) -> None:
    """Make `out`, lock it while `held` lives, and remove what a run left half-written, or with `force` all of it.

    Raises:
        UserError: if it is no folder, another process trains there, or it holds a backbone of another origin.
        CheckFailed: if the disk is full.
    """
    with writing(out):
        if out.exists() and not out.is_dir():
            raise UserError(expected="a folder", found="a file", where=out, cure="choose another path with -o")
        held.enter_context(exclusive(out, "pretraining"))
        checkpoint.clear_partial(out)
        if force:
            checkpoint.clear(out)
            shutil.rmtree(out / TENSORBOARD, ignore_errors=True)
            for name in (CSV, SKIPPED, PLOT, BACKBONE, head_beside(out / BACKBONE).name):
                (out / name).unlink(missing_ok=True)
    if (out / BACKBONE).exists() and checkpoint.newest(out) is None:
        raise UserError(
            expected="a folder without a backbone of another origin",
            found=BACKBONE,
            where=out,
            cure="choose another folder with -o, or start anew with --force",
        )


def write_backbone(out: Path, epochs: int) -> None:
    """See that `out` holds the backbone of its last checkpoint, after `epochs` epochs; write it where it does not.

    Raises:
        UserError: if the checkpoint holds no backbone.
        CheckFailed: if the disk is full.
    """
    path, last = out / BACKBONE, checkpoint.path_for(out, Position(epochs))
    if path.exists():
        try:
            origin = Backbone.load(path).origin.sha256
        except UserError as error:
            _log.info("written anew: %s", error)
        else:
            if origin == hashing.sha256_of(last):
                return
            _log.info("written anew: %s was made from another checkpoint than %s", path, last.name)
    with writing(out):
        try:
            families.read(last).save(path)
        except SafetensorError as error:
            raise CheckFailed(f"{path}: could not be written ({error})") from error
