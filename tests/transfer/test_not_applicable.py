"""A protocol that asks for the projection head, on a backbone that has none: no number, no failure, and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from converters.families import random_backbone
from evaluators.protocol import NotApplicable, find
from evaluators.protocols import CATALOGUE
from reports.collate import collate
from reports.html import page
from reports.tables import markdown, terminal
from tests import image_folders
from transfer.cell import evaluate_cell
from transfer.cells import steps
from transfer.run import RunState, execute
from transfer.suite import load_suite

SUITE = {
    "name": "small",
    "data": {"images": "images"},
    "backbones": {"random": {"init": "random", "arch": "resnet18"}},
    "protocols": [{"protocol": "quickstart-knn@1", "data": "images", "set": ["layer=head"]}],
}


def test_a_run_is_whole_and_the_table_says_why(tmp_path: Path) -> None:
    images = image_folders.make(tmp_path / "images", train=2, val=1)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SUITE))
    suite = load_suite(str(tmp_path / "small.yaml"))
    state = RunState(suite, tmp_path / "run", steps(suite, {"images": images}, tmp_path / "run"))
    random_backbone("resnet18", 0).save(next(step for step in state.steps if step.kind == "backbone").resolved.output)
    assert execute(state, 1)
    plan = state.plan()
    assert [(cell.state, cell.cell_id) for cell in plan.cells] == [("not applicable", None)]
    assert plan.cells[0].reason.startswith("random: expected a projection head for quickstart-knn@1, found none")
    table = collate((), plan)
    assert [cell.state for cell in table] == ["not applicable"]
    for shown in (markdown(table), terminal(table), page(table)):
        assert shown.lower().count("not applicable") >= 2
        assert "expected a projection head for" in shown.replace("\\", "")


def test_one_cell_alone_is_refused(tmp_path: Path) -> None:
    images = image_folders.make(tmp_path / "images", train=2, val=1)
    protocol = find("quickstart-knn@1", CATALOGUE).overridden(("layer=head",))
    with pytest.raises(NotApplicable, match="expected a projection head for quickstart-knn@1, found none"):
        evaluate_cell(
            protocol,
            "random:resnet18",
            images,
            run=tmp_path / "run",
            row="r",
            data_name="d",
            seed=0,
            command="",
            device="cpu",
        )
    assert not (tmp_path / "run").exists()
