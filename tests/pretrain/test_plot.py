from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from pretrain import plot

ROOT = Path(__file__).parents[2]
HEADER = "epoch,step,loss,top1,top5,lr,images_per_second"
BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def log(folder: Path, *rows: str, header: str = HEADER) -> Path:
    (folder / "log.csv").write_text("\n".join([header, *rows, ""]))
    return folder


def drawn(folder: Path) -> np.ndarray:
    with Image.open(folder / plot.PLOT) as image:
        return np.asarray(image.convert("RGB"))


def pixels(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of one colour: P×2."""
    return np.argwhere((picture == color).all(axis=2))


def test_a_falling_loss_and_a_rising_accuracy_are_seen(tmp_path: Path) -> None:
    rows = [f"{e},{10 * e},{9 - e},{10 * e},{12 * e},0.03,100" for e in range(1, 8)]
    assert plot.draw(log(tmp_path, *rows)) == tmp_path / "log.png"
    picture = drawn(tmp_path)
    height = len(picture)
    upper = pixels(picture[: height // 3], BLUE)  # the loss
    left, right = upper[upper[:, 1].argmin()], upper[upper[:, 1].argmax()]
    assert left[0] < right[0] - 100
    assert right[1] > left[1] + 500
    top5 = pixels(picture, ORANGE)
    assert (height // 3 < top5[:, 0]).all()
    curve = top5[top5[:, 1] < 700]  # the legend stands further right
    assert curve[curve[:, 1].argmin()][0] > curve[curve[:, 1].argmax()][0] + 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "log.png"]


def test_columns_are_taken_by_name_and_may_be_empty(tmp_path: Path) -> None:
    known = log(tmp_path, "1,5,8.5,10,20,0.03,9", "2,10,8.25,15,30,0.02,9")
    plot.draw(known)
    expected = drawn(tmp_path)
    log(tmp_path, "0.1,0.03,1,8.5,20,10,", "0.2,0.02,2,8.25,30,15,77", header="data_wait,lr,epoch,loss,top5,top1,knn")
    plot.draw(tmp_path)
    assert np.array_equal(drawn(tmp_path), expected)


def test_rows_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    plot.draw(log(tmp_path, "1,5,8.5,10,20,0.03,9"))
    expected = drawn(tmp_path)
    log(tmp_path, "1,5,8.5,10,20,0.03,9", "2,10,", "x,10,8,15,30,0.02,9", "3,10,inf,15,30,0.02,9")
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,20,7,15,30,0.02,9")  # the end of its line is missing
    plot.draw(tmp_path)
    assert np.array_equal(drawn(tmp_path), expected)


@pytest.mark.parametrize("content", [None, "", HEADER, HEADER + "\n"])
def test_without_a_row_there_is_no_picture(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "log.csv").write_text(content)
    assert plot.draw(tmp_path) is None
    assert not (tmp_path / "log.png").exists()


def test_a_long_run_is_drawn(tmp_path: Path) -> None:
    plot.draw(log(tmp_path, *(f"{e},{e},{8 - e / 800},{e / 8},{e / 8},0,9" for e in range(1, 801))))
    assert len(pixels(drawn(tmp_path), BLUE)) > 500


def test_a_picture_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log(tmp_path, "1,5,8.5,10,20,0.03,9")
    (tmp_path / "log.png").mkdir()
    (tmp_path / "log.png" / "in the way").touch()
    with caplog.at_level(logging.WARNING, "pretrain"):
        plot.write(tmp_path)
    (record,) = caplog.records
    assert "log.png was not drawn: " in record.getMessage()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "log.png"]


def test_nothing_of_matplotlib_is_loaded_before_or_changed_by_drawing(tmp_path: Path) -> None:
    backend = matplotlib.rcParams._get_backend_or_none()  # type: ignore[attr-defined]
    plot.draw(log(tmp_path, "1,5,8.5,10,20,0.03,9"))
    assert matplotlib.rcParams._get_backend_or_none() == backend  # type: ignore[attr-defined]
    code = "import sys, pretrain.plot; print(sorted({n.split('.')[0] for n in sys.modules} & {'matplotlib', 'torch'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "matplotlib" not in done.stdout
