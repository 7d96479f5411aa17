"""What an epoch adds up, over all processes: loss, accuracy, and damaged images, too many of which stop the run."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence

from converters import distributed
from converters.errors import UserError
from pretrain import run_folder
from pretrain.input.loading import Fault
from pretrain.meter import Reading
from pretrain.plan import Plan
from pretrain.run_folder import SKIPPED


class Tally:
    """The sums of an epoch; they survive a stop in its middle.

    Args:
        plan: the run.
        images: of an epoch, over all processes.
        sums: those of the epoch's earlier part, where it was cut off.
    """

    def __init__(self, plan: Plan, images: int, sums: Sequence[float] = ()) -> None:
        self.plan, self.allowed = plan, plan.recipe.max_damaged * images
        self._sums = list(sums) or [0.0, 0.0, 0.0, 0.0]
        self._noted: list[Fault] = []

    @property
    def sums(self) -> list[float]:
        """Loss, top-1, top-5 and damaged images."""
        return list(self._sums)

    @property
    def skipped(self) -> int:
        """Damaged images so far."""
        return round(self._sums[3])

    def means(self, steps: int) -> dict[str, float]:
        """What the epoch's row of the log shows."""
        loss, top1, top5, _ = (value / steps for value in self._sums)
        return {"loss": loss, "top1": top1, "top5": top5}

    def note(self, faults: Sequence[Fault]) -> None:
        """Remember what this process met."""
        self._noted.extend(faults)

    def add(self, reading: Reading) -> None:
        """Add a step.

        Raises:
            UserError: in every process, if too many images are damaged; they are listed then.
        """
        each = (reading.loss, reading.top1, reading.top5, reading.faults)
        self._sums = [value + more for value, more in zip(self._sums, each, strict=True)]
        if reading.faults and self.skipped > self.allowed:
            first = self.write_skipped()[0]
            share = self.plan.recipe.max_damaged
            raise UserError(
                expected=f"at most {math.floor(self.allowed)} damaged images in an epoch (max_damaged {share:g})",
                found=f"{self.skipped}, as {first.where} ({first.reason})",
                where=self.plan.out / SKIPPED,
                cure="repair or remove what is listed there, or allow more with --set max_damaged=SHARE",
            )

    def write_skipped(self) -> list[Fault]:
        """List what all processes noted since the last call, in the main process's file."""
        gathered = [fault for part in distributed.gather_values(self._noted) for fault in part]
        self._noted = []
        if gathered and self.plan.world.is_main:
            path = self.plan.out / SKIPPED
            with run_folder.writing(self.plan.out):
                fresh = not path.exists()
                with path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
                    writer = csv.writer(file)
                    if fresh:
                        writer.writerow(Fault._fields)
                    writer.writerows(gathered)
        return gathered
