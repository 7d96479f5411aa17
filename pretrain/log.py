"""What a run tells while it goes: a progress line, `log.csv` with a row an epoch, and TensorBoard events."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from converters.errors import UserError
from converters.progress import Progress
from converters.settings import Settings

CSV = "log.csv"
TENSORBOARD = "tensorboard"


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


class RunLog:
    """Use as a context manager, in the main process alone.

    Args:
        out: the run's folder.
        start: epochs done before; rows and events after them, of a run that was cut off, are dropped.
        steps: steps an epoch.
        images: images that are still to be seen.

    Raises:
        UserError: if the folder holds a `log.csv` of another origin.
    """

    def __init__(self, out: Path, *, start: int, steps: int, images: int) -> None:
        self.path = out / CSV
        kept = [row for row in _rows(self.path) if row.epoch <= start]
        partial = out / f".{CSV}.partial"
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(EpochRow.model_fields)
            writer.writerows(_cells(row) for row in kept)
        partial.replace(self.path)
        self._events = SummaryWriter(str(out / TENSORBOARD), purge_step=start * steps + 1)
        self._progress = Progress("pretrain", images, "images")
        self.begin_epoch()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.__exit__(None, None, None)
        self._events.close()

    def begin_epoch(self) -> None:
        """Start the clock of images a second."""
        self._images, self._began = 0, time.monotonic()

    def step(self, images: int, *, epoch: int, loss: float, top1: float, top5: float, lr: float) -> None:
        """Show a step of `images` images (over all processes); `top1` and `top5` in percent."""
        self._images += images
        self._progress.step(images, epoch=str(epoch + 1), loss=loss, top1=top1, top5=top5, lr=lr)

    def epoch(self, epoch: int, step: int, *, loss: float, top1: float, top5: float, lr: float) -> None:
        """Write the row of `epoch` (from 0)."""
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        row = EpochRow(epoch=epoch + 1, step=step, loss=loss, top1=top1, top5=top5, lr=lr, images_per_second=rate)
        values = row.model_dump()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(_cells(row))
        for name in ("loss", "top1", "top5", "lr", "images_per_second"):
            self._events.add_scalar(name, values[name], step)
        self._events.flush()


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
