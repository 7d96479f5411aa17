"""The house rules that can be checked: light imports, a README that is true, no trace of a machine."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pretrain", "converters", "evaluators", "reports", "transfer")
HEAVY = ("detectron2", "mmseg", "mmcv", "mmengine", "faiss")


def tracked() -> list[Path]:
    """Every file of the project, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("words", [("--help",), ("run", "quickstart", "--dry-run"), ("evaluate", "--list")])
def test_a_command_loads_nothing_heavy_before_it_must(words: tuple[str, ...], tmp_path: Path) -> None:
    code = f"""
import sys
from transfer.__main__ import main
try:
    main({words!r})
except SystemExit:
    pass
print("loaded:", *[name for name in {(*HEAVY, "torch")!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    forbidden = (*HEAVY, "torch") if package == "reports" else HEAVY
    modules = [package]
    if package == "reports":  # not only the package: none of its modules may load torch
        modules += [f"reports.{path.stem}" for path in (ROOT / "reports").glob("*.py") if path.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_is_answered_in_under_half_a_second_of_cpu_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "transfer", "--help"], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_the_readmes_tree_names_every_source_file() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(.*?)```", readme, re.DOTALL)
    assert tree is not None, "the README has no tree"
    folder, named = "", set()
    for line in tree.group(1).splitlines():
        name, _, comment = line.strip().partition("  ")
        assert comment.strip(), f"{name} has no comment in the README's tree"
        if line.startswith("  "):
            named.add(Path(folder) / name)
        else:
            folder = name
            named.add(Path(name))
    files = {
        path for path in tracked() if path.parts[0] in PACKAGES and path.suffix == ".py" and path.stem != "__init__"
    }
    # A folder inside a package is named once, as `datasets/`, for all that it holds.
    folders = {path for path in named if (ROOT / path).is_dir() and len(path.parts) > 1}
    covered = {path for path in files if any(folder in path.parents for folder in folders)}
    missing = files - named - covered
    assert not missing, f"not in the README's tree: {sorted(map(str, missing))}"
    absent = [path for path in named if not (ROOT / path).exists()]
    assert not absent, f"in the README's tree only: {sorted(map(str, absent))}"


def test_no_file_carries_a_path_of_somebodys_machine() -> None:
    absolute = re.compile(r"(?<![\w.:/~}])/(?:home|mnt|opt|root|srv|work|Users)/\w")
    found = []
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".html", ".json", ""}:
            text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
            found += [f"{path}: {match.group()}" for match in absolute.finditer(text)]
    assert not found


def test_pins_name_packages_and_no_download_address() -> None:
    for name in ("constraints.txt", "constraints-detectron2.txt", "pyproject.toml"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_documents_are_whole() -> None:
    for path in tracked():
        if path.suffix == ".md":
            text = (ROOT / path).read_text(encoding="utf-8")
            assert not re.search(r"@[A-Z0-9]{3,}@", text), f"{path} holds a placeholder"
            for link in re.findall(r"\]\(([^)#:]+)\)", text):
                assert (ROOT / path.parent / link).exists(), f"{path} links to {link}, which does not exist"


def test_every_commands_help_shows_an_example() -> None:
    from transfer.__main__ import COMMANDS

    for name in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "transfer", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"moco-transfer {name}" in done.stdout.split("example:")[1]
