"""The README's commands, run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from converters.settings import parse
from transfer.suite import Suite

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, heading: str) -> list[str]:
    """The fenced blocks of a language below a heading."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## )", README, re.DOTALL | re.MULTILINE)
    assert section is not None, f"the README has no section {heading!r}"
    return re.findall(rf"```{language}\n(.*?)```", section.group(1), re.DOTALL)


@pytest.mark.timeout(600)
def test_the_commands_for_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    (script,) = blocks("sh", "A checkpoint of your own")
    activate, *commands = [line for line in script.splitlines() if line.strip()]
    assert activate == "source .venv/bin/activate"
    assert {line.split()[1] for line in commands} >= {"convert", "evaluate", "report"}
    program = f'moco-transfer() {{ {shlex.quote(sys.executable)} -m transfer "$@"; }}'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([program, *commands])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "mine" / "report" / "index.html").is_file()
    for name in ("moco.safetensors", "moco.pkl", "moco.yaml", "moco.pth", "moco.py", "moco.pkl.certificate.json"):
        assert (tmp_path / "runs" / "moco" / name).is_file(), name


def test_the_suite_shown_is_a_valid_one() -> None:
    (text,) = blocks("yaml", "A checkpoint of your own")
    suite = parse(Suite, yaml.safe_load(text), "README.md")
    from evaluators.protocol import find
    from evaluators.protocols import CATALOGUE
    from pretrain.recipes import find_recipe

    for column in suite.protocols:
        find(column.protocol, CATALOGUE)
    for backbone in suite.backbones.values():
        if backbone.recipe is not None:
            find_recipe(backbone.recipe)


def test_every_protocol_named_exists() -> None:
    from evaluators.protocols import CATALOGUE
    from pretrain.recipes import RECIPES

    named = set(re.findall(r"[a-z0-9][a-z0-9.-]*@[1-9]\b", README))
    assert named
    assert named <= CATALOGUE.keys() | RECIPES.keys()
