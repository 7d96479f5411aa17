"""The kNN monitor against the protocol's own evaluation, and its options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluators.job import Job
from evaluators.knn.task import evaluate
from evaluators.protocol import find
from evaluators.protocols import CATALOGUE
from pretrain.model import projector
from tests import image_folders
from transfer.__main__ import main
from transfer.monitor import KnnMonitor


def test_it_shows_what_the_protocol_measures(tmp_path: Path) -> None:
    from converters.families import random_backbone

    data = image_folders.make(tmp_path / "images", train=12, val=6)
    backbone = random_backbone("resnet18", 3)
    encoder = projector("resnet18", 16, True, 2)
    encoder.load_state_dict({**encoder.state_dict(), **backbone.tensors})
    encoder.eval()
    monitor = KnnMonitor(data, "quickstart-knn@1", every=2, epochs=5)
    assert monitor(1, encoder) == {}
    with torch.no_grad():
        shown = monitor(2, encoder)
    (tmp_path / "work").mkdir()
    outcome = evaluate(
        Job(
            protocol=find("quickstart-knn@1", CATALOGUE),
            backbone=backbone,
            data=data,
            workdir=tmp_path / "work",
            features=tmp_path / "features",
            seed=0,
            device=torch.device("cpu"),
        )
    )
    measured = {metric.name: metric.value for metric in outcome.metrics}
    assert shown == {"knn_top1": measured["top1_k20"], "knn_top5": measured["top5_k20"]}
    assert monitor(5, encoder) == shown
    assert hasattr(encoder, "fc")
    assert not isinstance(encoder.fc, torch.nn.Identity)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--knn-data", "x"], "expected --knn-every beside --knn-data"),
        (["--knn-every", "0"], "expected a number of epochs above 0, found 0"),
        (["--knn-every", "1", "--knn-protocol", "linear-moco@1"], "expected a kNN protocol"),
        (["--knn-every", "1", "--knn-data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_folders.make(tmp_path / "images")
    command = ["pretrain", "quickstart-moco-v2@1", "--data", str(data), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
