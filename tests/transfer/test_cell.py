"""From an evaluation to a record: what may not change meanwhile, and what must not be lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.errors import CheckFailed, UserError
from converters.receipt import Receipt, still_frozen
from evaluators.datasets.card import card
from evaluators.job import Job, Metric, Outcome
from evaluators.protocols import CATALOGUE
from tests import image_folders
from transfer import cell

PROTOCOL = CATALOGUE["quickstart-knn@1"]


def outcome(job: Job) -> Outcome:
    """What an evaluation of no time would give; it leaves something behind for going on."""
    (job.unfinished).mkdir()
    (job.unfinished / "state").write_text("half of the work")
    backbone = job.backbone.fingerprint
    receipt = Receipt(
        framework="torchvision",
        backbone=backbone,
        live=backbone,
        tensors=100,
        preprocess=job.backbone.preprocess,
        stride_in_1x1=False,
    )
    metric = Metric(name=job.protocol.headline, value=50.0, unit="%", higher_is_better=True, n=3)
    found = still_frozen(receipt, job.backbone.tensors)
    return Outcome((metric,), found, card(job.protocol.settings, job.data))


def run_cell(images: Path, run: Path) -> Path:
    return cell.evaluate_cell(
        PROTOCOL, "random:resnet18", images, run=run, row="r", data_name="d", seed=0, command="", device="cpu"
    )[1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_folders.make(tmp_path / "images", train=2, val=1)


def test_unfinished_work_is_kept_until_the_record_is_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "evaluate", outcome)
    with monkeypatch.context() as patch:
        patch.setattr(cell.store, "write_record", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(CheckFailed, match=r"results: the file could not be written: No space left"):
            run_cell(images, tmp_path / "run")
    (state,) = tmp_path.glob("run/cells/*/unfinished/state")
    state.unlink()
    state.parent.rmdir()
    path = run_cell(images, tmp_path / "run")
    assert path.is_file()
    assert not state.parent.exists()


def test_data_that_changes_meanwhile_gives_no_record(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(job: Job) -> Outcome:
        found = outcome(job)
        image_folders.image(images / "train" / "red" / "00.png", (1, 2, 3), seed=9, size=40)
        return found

    monkeypatch.setattr(cell, "evaluate", change)
    with pytest.raises(CheckFailed, match="the data set changed during the evaluation"):
        run_cell(images, tmp_path / "run")
    assert not list((tmp_path / "run" / "results").iterdir())


def test_a_place_that_can_hold_no_record_is_told_at_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "evaluate", lambda _: pytest.fail("it must not begin"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results").write_text("a file")
    with pytest.raises(UserError, match=r"results: expected a place where a file can be written, found File exists"):
        run_cell(images, tmp_path / "run")
    with pytest.raises(UserError, match="expected a place where a file can be written"):
        run_cell(images, Path("/proc/nowhere"))
