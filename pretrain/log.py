"""What a run tells while it goes: a progress line, `log.csv` with a row an epoch, its picture, TensorBoard events."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from converters.errors import UserError
from converters.progress import Progress
from converters.settings import Settings
from pretrain import plot, run_folder
from pretrain.meter import Reading
from pretrain.run_folder import CSV, TENSORBOARD

_DRAW_EVERY = 60.0
"""Seconds between two pictures, which each cost about one."""

_log = logging.getLogger(__name__)


class EpochRow(Settings):
    """One row of `log.csv`: means over an epoch, taken over all processes."""

    epoch: int
    """From 1."""
    step: int
    """Optimizer steps done since the beginning of the run."""
    loss: float
    """InfoNCE, nats."""
    top1: float
    """Share of queries whose positive scores above all K negatives, percent."""
    top5: float
    """Likewise, above all but four of them."""
    lr: float
    images_per_second: float
    """Over all processes."""
    data_wait: float
    """Share of the time in which the main process waited for images, percent."""
    skipped: int
    """Damaged images that another stood in for, over all processes."""


class RunLog:
    """Use as a context manager.

    Args:
        out: the run's folder; None in all processes but the main one, where nothing is shown or written.
        start: epochs done before; rows after them, of a run that was cut off, are dropped.
        done: steps done before; events after them are dropped.
        images: images that are still to be seen.

    Raises:
        UserError: if the folder holds a `log.csv` of another origin.
        CheckFailed: if the disk is full.
    """

    def __init__(self, out: Path | None, *, start: int, done: int, images: int) -> None:
        self.out = out
        if out is not None:
            with run_folder.writing(out):
                _drop_rows_after(start, out / CSV)
                self._events = SummaryWriter(str(out / TENSORBOARD), purge_step=done + 1)
            self._progress = Progress("pretrain", images, "images")
            self._drawn = time.monotonic()
        self.begin_epoch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.out is not None:
            self._progress.__exit__(None, None, None)
            self._events.close()
            plot.write(self.out)

    def begin_epoch(self) -> None:
        """Start the clock of images a second."""
        self._images, self._waited, self._began = 0, 0.0, time.monotonic()

    def step(self, images: int, waited: float, reading: Reading, *, epoch: int, lr: float) -> None:
        """Show a step of `images` images (over all processes), for which the main process waited `waited` seconds."""
        self._images += images
        self._waited += waited
        if self.out is not None:
            shown = {"loss": reading.loss, "top1": reading.top1, "top5": reading.top5, "lr": lr}
            self._progress.step(images, epoch=str(epoch + 1), **shown, wait=f"{self._data_wait():.0f}%")

    def epoch(self, epoch: int, step: int, *, loss: float, top1: float, top5: float, lr: float, skipped: int) -> None:
        """Write the row of `epoch` (from 0)."""
        if self.out is None:
            return
        row = EpochRow(
            epoch=epoch + 1,
            step=step,
            loss=loss,
            top1=top1,
            top5=top5,
            lr=lr,
            images_per_second=self._images / self._seconds(),
            data_wait=self._data_wait(),
            skipped=skipped,
        )
        values = row.model_dump()
        with run_folder.writing(self.out):
            with (self.out / CSV).open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(_cells(row))
            self._scalars({name: values[name] for name in values if name not in ("epoch", "step")}, step)
        if time.monotonic() - self._drawn > _DRAW_EVERY:
            plot.write(self.out)
            self._drawn = time.monotonic()

    def monitored(self, values: Mapping[str, float], step: int) -> None:
        """Write what a monitor measured after `step` to TensorBoard, and show it."""
        if self.out is None or not values:
            return
        _log.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        with run_folder.writing(self.out):
            self._scalars(values, step)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)

    def _data_wait(self) -> float:
        return 100 * self._waited / self._seconds()


def _drop_rows_after(start: int, path: Path) -> None:
    kept = [row for row in _rows(path) if row.epoch <= start]
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(EpochRow.model_fields)
        writer.writerows(_cells(row) for row in kept)
    partial.replace(path)


def _cells(row: EpochRow) -> list[str]:
    return [f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.model_dump().values()]


def _rows(path: Path) -> list[EpochRow]:
    """The rows up to the first that is not whole: a run that was cut off may have left half of one.

    Raises:
        UserError: if the file is no log of ours.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    if not lines:
        return []
    header = list(EpochRow.model_fields)
    if lines[0].split(",") != header:
        raise UserError(
            expected=f"a log with the columns {','.join(header)}",
            found=f"another first line ({lines[0][:60]!r})",
            where=path,
            cure="move it away, or choose another folder with -o",
        )
    # Even a cut number is a number: a row is whole only with the end of its line.
    whole = lines[1:] if text.endswith("\n") else lines[1:-1]
    rows: list[EpochRow] = []
    for line in whole:
        try:
            rows.append(EpochRow.model_validate(dict(zip(header, line.split(","), strict=True))))
        except ValueError:  # of zip, and pydantic's
            break
    return rows
