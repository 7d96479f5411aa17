"""The picture of a run: loss, contrastive accuracy and learning rate over epochs, drawn from `log.csv`."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from converters import files
from pretrain.run_folder import CSV, PLOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#555555"  # told apart by colour-blind readers too (Okabe and Ito)
_MARKED = 40
"""Up to this many epochs, each has a marker."""


_log = logging.getLogger(__name__)


def write(out: Path) -> None:
    """`draw`, but a picture that cannot be drawn is told in one line and stops nothing: `log.csv` holds all of it."""
    try:
        draw(out)
    except Exception as error:  # a run of weeks must not end because of its picture
        _log.warning("%s was not drawn: %s", out / PLOT, error or type(error).__name__)


def draw(out: Path) -> Path | None:
    """Draw `log.csv` of the run in `out` as `log.png` beside it, whole or not at all.

    Rows that are not whole, as a run that was cut off may leave, are left out; so are columns that the log lacks.

    Returns:
        The path of the picture, or None where the log has no row yet.

    Raises:
        UserError, CheckFailed: where it cannot be written; see `converters.files.faults_of`.
    """
    columns = _columns(out / CSV)
    epochs = columns.get("epoch", [])
    if not epochs:
        return None

    # Without pyplot, nothing is global: no backend, no open figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2)))
    loss, accuracy, rate = panels
    loss.set_title(out.resolve().name, loc="left")
    _line(loss, epochs, columns.get("loss"), _BLUE, "InfoNCE")
    loss.set_ylabel("loss (nats)")
    _line(accuracy, epochs, columns.get("top5"), _ORANGE, "top-5")
    _line(accuracy, epochs, columns.get("top1"), _BLUE, "top-1")
    accuracy.set_ylabel("contrastive\naccuracy (%)")
    accuracy.set_ylim(-3, 103)
    if accuracy.lines:
        accuracy.legend(loc="lower right", framealpha=1, edgecolor="none")
    _line(rate, epochs, columns.get("lr"), _GREY, "lr", stepped=True)
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    # A single epoch would have no width.
    rate.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    for panel in panels:
        panel.grid(visible=True, color="#e5e5e5", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(panels)

    path = out / PLOT
    with files.whole(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return path


def _line(
    panel: Axes, epochs: list[float], values: list[float] | None, color: str, label: str, *, stepped: bool = False
) -> None:
    if values is not None:
        marker = "o" if len(epochs) <= _MARKED else ""
        style = "steps-mid" if stepped and len(epochs) > 1 else "default"
        panel.plot(
            epochs, values, color=color, label=label, marker=marker, markersize=3.5, linewidth=1.6, drawstyle=style
        )


def _columns(path: Path) -> dict[str, list[float]]:
    """Column name -> numbers, of the rows in which every field is a finite number or empty.

    Read by name, so that a log with other columns is drawn too. An empty field is a NaN, which leaves a gap.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    # Even a cut number is a number: a row is whole only with the end of its line.
    header, *rows = list(csv.reader(text.splitlines()[: None if text.endswith("\n") else -1])) or [[]]
    columns: dict[str, list[float]] = {name: [] for name in header}
    for row in rows:
        try:
            numbers = [float(cell) if cell else math.nan for cell in row]
        except ValueError:
            continue
        if len(numbers) == len(header) and not any(map(math.isinf, numbers)):
            for name, number in zip(header, numbers, strict=True):
                columns[name].append(number)
    return columns
