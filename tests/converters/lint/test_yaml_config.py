from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from converters.errors import UserError
from converters.lint import yaml_config


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_chain_of_bases_merges_from_the_far_end(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "MODEL: {A: 1, B: {C: 2, D: 3}}\nSOLVER: {STEPS: '(10, 20)'}\n")
    write(tmp_path / "sub" / "mid.yaml", "_BASE_: ../base.yaml\nMODEL: {B: {C: 4}}\n")
    write(tmp_path / "other.yaml", "MODEL: {E: x}\n")
    top = write(tmp_path / "top.yaml", "_BASE_: [sub/mid.yaml, other.yaml]\nMODEL: {A: 5}\n")
    assert yaml_config.read(top) == {"MODEL": {"A": 5, "B": {"C": 4, "D": 3}, "E": "x"}, "SOLVER": {"STEPS": (10, 20)}}


def test_it_reads_what_detectron2_reads(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from converters import detectron2_compat

    detectron2_compat.prepare()
    from detectron2.config import get_cfg

    write(
        tmp_path / "base.yaml",
        'MODEL:\n  RESNETS: {DEPTH: 101, NORM: "SyncBN"}\nSOLVER:\n  STEPS: (18000, 22000)\nVERSION: 2\n',
    )
    top = write(
        tmp_path / "top.yaml",
        "_BASE_: base.yaml\nMODEL:\n  RESNETS: {DEPTH: 50}\nDATASETS:\n  TRAIN: ('voc_2007_trainval',)\n",
    )
    cfg = get_cfg()
    cfg.merge_from_file(str(top))
    mine = yaml_config.read(top)
    assert mine["MODEL"]["RESNETS"] == {"DEPTH": cfg.MODEL.RESNETS.DEPTH, "NORM": cfg.MODEL.RESNETS.NORM}
    assert mine["SOLVER"]["STEPS"] == cfg.SOLVER.STEPS == (18000, 22000)
    assert mine["DATASETS"]["TRAIN"] == cfg.DATASETS.TRAIN == ("voc_2007_trainval",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("_BASE_: https://example.org/base.yaml\n", "https://example.org"),
        ("_BASE_: s3://bucket/base.yaml\n", "s3://"),
        ("_BASE_: ~/base.yaml\n", "~/base.yaml"),
        ("_BASE_: absent.yaml\n", "found none"),
        ("_BASE_: 3\n", "found 3"),
        ("_BASE_: top.yaml\n", "circle"),
        ("- a list\n", "found list"),
        ("MODEL: [unclosed\n", "valid YAML"),
        ("1: 2\n", "names as keys"),
        ("", "found NoneType"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(UserError, match=found) as caught:
        yaml_config.read(write(tmp_path / "top.yaml", text))
    assert str(tmp_path) in str(caught.value)


def test_a_circle_over_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    with pytest.raises(UserError, match="circle"):
        yaml_config.read(write(tmp_path / "b.yaml", "_BASE_: a.yaml\n"))


@pytest.mark.parametrize("tag", ["python/object/apply:pathlib.Path.touch", "python/name:os.system", "python/tuple"])
def test_a_tag_that_is_code_is_refused_with_its_line_and_not_executed(tmp_path: Path, tag: str) -> None:
    canary = tmp_path / "canary"
    text = f"MODEL:\n  A: !!{tag} ['{canary}']\n"
    path = write(tmp_path / "evil.yaml", text)
    with pytest.raises(UserError, match=r"evil.yaml, line 2: .*python/.*never") as caught:
        yaml_config.read(path)
    assert tag.partition(":")[0] in str(caught.value)
    assert not canary.exists()


def test_the_canary_would_have_been_made_by_the_unsafe_loader(tmp_path: Path) -> None:
    """That is, the test above is about something."""
    canary = tmp_path / "canary"
    yaml.unsafe_load(f"!!python/object/apply:os.mkdir ['{canary}']")
    assert canary.exists()


def test_aliases_that_multiply_are_bounded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(UserError, match="at most 400000 values"):
        yaml_config.read(write(tmp_path / "bomb.yaml", "\n".join(lines)))


def test_merges_that_double_are_bounded(tmp_path: Path) -> None:
    lines = ["a0: &a0 {k: v, l: w}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]
    with pytest.raises(UserError, match="merged keys"):
        yaml_config.read(write(tmp_path / "bomb.yaml", "\n".join(lines)))
    path = write(tmp_path / "fine.yaml", "a: &a {k: 1, l: 2}\nb: {<<: *a, l: 3}\n")
    assert yaml_config.read(path)["b"] == {"k": 1, "l": 3}


def test_a_value_within_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nested"):
        yaml_config.read(write(tmp_path / "loop.yaml", "a: &a [*a]\n"))


def test_a_huge_file_and_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 500000 bytes"):
        yaml_config.read(write(tmp_path / "huge.yaml", "#" * 500_001))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        yaml_config.read(tmp_path / "bytes.yaml")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nested|deep"):
        yaml_config.read(write(tmp_path / "deep.yaml", "a: " + "[" * 5000 + "]" * 5000))
    # A string that detectron2 would evaluate as a literal.
    text = "a: '" + "(" * 5000 + ")" * 5000 + "'\n"
    assert yaml_config.read(write(tmp_path / "string.yaml", text))["a"].startswith("((((")
