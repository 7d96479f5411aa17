from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from converters.lint.rules import RULES
from tests import checkpoints
from tests.lint_configs import CITYSCAPES_FCN, python_config, voc_yaml
from transfer.__main__ import main

R18 = (
    "MODEL.BACKBONE.NAME: build_resnet_fpn_backbone",
    "MODEL.ROI_HEADS.NAME: StandardROIHeads",
    "MODEL.FPN.NORM: SyncBN",
    "MODEL.RESNETS.DEPTH: 18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS: 64",
)


def test_clean_wrong_and_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = checkpoints.write(tmp_path / "moco.pth.tar", checkpoints.moco("resnet18"))
    clean = voc_yaml(tmp_path, *R18, name="clean.yaml")
    assert main(["lint", str(clean), "--backbone", str(raw)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{clean}: clean for resnet18 in detectron2"

    wrong = voc_yaml(tmp_path, *R18, "INPUT.FORMAT: BGR", "SOLVER.WARMUP_ITERS: 1000", name="wrong.yaml")
    assert main(["lint", str(wrong), "--backbone", str(raw)]) == 1
    shown = capsys.readouterr().out
    assert "error    channel-order: INPUT.FORMAT is 'BGR', expected 'RGB'" in shown
    assert "fix: set INPUT.FORMAT to 'RGB'" in shown
    assert shown.endswith("1 error, 1 warning for resnet18 in detectron2\n")

    assert main(["lint", str(wrong), "--backbone", str(raw), "--fix"]) == 0
    assert f"wrote {tmp_path / 'wrong.fixed.yaml'}" in capsys.readouterr().out
    assert main(["lint", str(tmp_path / "wrong.fixed.yaml"), "--backbone", str(raw)]) == 0
    capsys.readouterr()
    assert main(["lint", str(wrong), "--backbone", str(raw), "--fix"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["lint", str(wrong), "--backbone", str(raw), "--fix", "--force"]) == 0


def test_warnings_fail_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = voc_yaml(tmp_path, *R18, "SOLVER.WARMUP_ITERS: 1000")
    assert main(["lint", str(path), "--backbone", "random:resnet18"]) == 0
    assert main(["lint", str(path), "--backbone", "random:resnet18", "--strict"]) == 1
    assert "warning  warmup" in capsys.readouterr().out


def test_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = voc_yaml(tmp_path, *R18)
    assert main(["lint", str(path), "--backbone", "random:resnet18", "--gpus", "1", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["framework"] == "detectron2"
    assert [(finding["rule"], finding["key"]) for finding in report["findings"]] == [
        ("sync-bn-one-device", "MODEL.RESNETS.NORM"),
        ("sync-bn-one-device", "MODEL.FPN.NORM"),
    ]
    assert report["findings"][0]["changes"] == [{"path": ["MODEL", "RESNETS", "NORM"], "value": "BN"}]


def test_a_random_backbone_is_right_with_random_weights(tmp_path: Path) -> None:
    path = voc_yaml(tmp_path, *R18, 'MODEL.WEIGHTS: ""')
    assert main(["lint", str(path), "--backbone", "random:resnet18"]) == 0


def test_a_strangers_configuration_runs_on_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mmengine")
    canary = tmp_path / "canary"
    text = f"import os\nos.mkdir({str(canary)!r})\n" + CITYSCAPES_FCN
    path = python_config(tmp_path, text, "model['backbone']['init_cfg'] = None")
    words = ["lint", str(path), "--backbone", "random:resnet50"]
    assert main(words) == 2
    assert "config_4xb2.py, line 1: " in capsys.readouterr().err
    assert not canary.exists()
    assert main([*words, "--execute"]) == 0
    assert canary.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/absent.yaml", "--backbone", "random:resnet18"], "absent.yaml: expected a configuration file, found none"),
        (["{}/absent.py", "--backbone", "random:resnet18"], "absent.py: expected a configuration file, found none"),
        (["{}/absent.txt", "--backbone", "random:resnet18"], "a detectron2 .yaml, or a .py"),
        (["{}/mm.yaml", "--backbone", "random:resnet18"], "found an OpenMMLab YAML"),
        (["{}/mm.yaml", "--backbone", "absent.pth"], "absent.pth"),
        (["{}/mm.yaml", "--backbone", "random:resnet18", "--gpus", "-1"], "--gpus"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "mm.yaml").write_text("model: {type: X}\n", encoding="utf-8")
    assert main(["lint", *(word.format(tmp_path) for word in words)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_the_document_has_every_rule_as_the_rule_book_has_it() -> None:
    text = (Path(__file__).parents[3] / "docs" / "linting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert {rule: (title, why, source) for rule, title, why, source in rows} == {
        name: (rule.title, rule.why, rule.source) for name, rule in RULES.items()
    }
