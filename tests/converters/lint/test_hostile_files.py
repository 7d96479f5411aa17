"""Bases that are no files, and values that would eat memory. Each runs where memory and time are bounded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import UserError
from converters.lint import lint, yaml_config
from converters.metadata import Preprocess
from converters.receipt import same_input
from tests.lint_configs import CITYSCAPES_FCN, MOCO, but_remote, python_config, voc_yaml

READ = """
import resource, sys
from pathlib import Path
from converters.errors import UserError
from converters.lint import openmmlab_config, yaml_config
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**29, now + 2**29))
path = Path(sys.argv[1])
try:
    print((yaml_config if path.suffix == ".yaml" else openmmlab_config).read(path))
except UserError as error:
    print("told:", error)
"""


def told(path: Path) -> str:
    """What is said of a file by a process that may take half a gigabyte and 20 seconds."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=20, check=True
    )
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.parametrize("suffix", ["yaml", "py"])
def test_a_base_that_is_no_regular_file_is_refused_unopened(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    for base in ("/dev/zero", "fifo"):
        path = tmp_path / f"c.{suffix}"
        path.write_text(f"_BASE_: {base}\n" if suffix == "yaml" else f"_base_ = {base!r}\n", encoding="utf-8")
        assert "expected a regular file, found a device, pipe or socket" in told(path)


def test_links_that_lead_to_each_other_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    path = tmp_path / "c.yaml"
    for base in ("a.yaml", '"a\\0b"', "x" * 5000):
        path.write_text(f"_BASE_: {base}\n", encoding="utf-8")
        with pytest.raises(UserError) as caught:
            yaml_config.read(path)
        assert len(str(caught.value)) < 1000


def test_an_error_in_a_base_shows_none_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:hunter2: [secret\nother: hunter3]: }\n", encoding="utf-8")
    path = tmp_path / "c.yaml"
    path.write_text("_BASE_: shadow\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"shadow, line [12]: expected valid YAML") as caught:
        yaml_config.read(path)
    assert "hunter" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "code",
    [
        '("{0}" * 33000).format("x" * 100000)',
        '("{a}" * 33000).format(a="x" * 100000)',
        '("%(a)s" * 20000) % {"a": "x" * 100000}',
        '("{0:999}" * 14000).format("x")',
        '("%999d" * 20000) % ((1,) * 20000)',
        '("{}" * 33000).format(*[["x" * 50000]] * 33000)',
        '("{0:{1}}" * 14000).format("x", "999")',
    ],
)
def test_a_format_is_bounded_before_it_is_made(tmp_path: Path, code: str) -> None:
    line = told(python_config(tmp_path, f"a = {code}"))
    assert "found a format of " in line or "at most 400000 values" in line


def test_formats_that_configurations_have_are_made(tmp_path: Path) -> None:
    lines = (
        "a = '{}/{:>5}-{name}'.format('x', 12, name='y')",
        "b = 'e_%d_%s_%05.2f' % (3, 'z', 1.5)",
        "c = '%s' % [1]",
    )
    text = told(python_config(tmp_path, "", *lines))
    assert text == "{'a': 'x/   12-y', 'b': 'e_3_z_01.50', 'c': '[1]'}"


@pytest.mark.parametrize("mean", [[123.7, 116.3, 103.5], [123.68, 116.28, 103.53], [123.675, 116.28, 103.53]])
def test_lint_and_the_receipt_agree_on_rounding(tmp_path: Path, mean: list[float]) -> None:
    live = Preprocess(mean=(mean[0], mean[1], mean[2]), std=(58.395, 57.12, 57.375), value_range=(0.0, 255.0))
    right = [] if same_input(live, MOCO.preprocess) else ["mean"]
    found = lint(voc_yaml(tmp_path, f"MODEL.PIXEL_MEAN: {mean}"), MOCO).findings
    assert [finding.rule for finding in found] == right
    line = f"data_preprocessor['mean'] = {mean}"
    assert [one.rule for one in but_remote(lint(python_config(tmp_path, CITYSCAPES_FCN, line), MOCO))] == right
    assert all("rounded" in finding.why for finding in found)
