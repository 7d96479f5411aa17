"""Any value at any place of a configuration: a report, or one line that says what is wrong; never a traceback."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from converters.errors import UserError
from converters.lint import lint, openmmlab_config
from tests.lint_configs import CITYSCAPES_FCN, COCO_C4_HEAD, COCO_FPN, MOCO, VOC_C4, python_config

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 3.0, 8, 2**500, -(2**500), 1e300, float("inf"), float("nan")),
    *("", "x", "x" * 5000, "\x00", "\x1b[31m", "0x" + "f" * 5000, "(18000, '22000')", "[[[1]]]", "{1: 2}", "1e999"),
    *([], [None], [[1]], [1, "2"], [float("nan")] * 3, [1e300, 2**500, 1], {}, {"type": 1}, {"type": "Pretrained"}),
)
CASES = 150
"""Of each configuration."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value, the inner ones too."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def changed(values: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with `new` at a path."""
    copied = copy.deepcopy(values)
    node = copied
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = new
    return copied


def cases(values: Any, seed: int) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Seeded: where, what, and the configuration with it."""
    every = [(path, new) for path in places(values) for new in VALUES]
    for path, new in random.Random(seed).sample(every, CASES):
        yield path, new, changed(values, path, new)


def is_told(path: Path, case: object) -> bool:
    """Whether lint gives a report that can be shown and written; a UserError is told too."""
    try:
        report = lint(path, MOCO, gpus=8)
    except UserError as error:
        return len(str(error).splitlines()) == 1 and len(str(error)) < 2000
    except Exception as error:
        raise AssertionError(f"{case}: {error!r}") from error
    assert "\x1b" not in "".join(report.lines())
    return bool(report.lines()) and bool(report.model_dump_json())


def test_of_detectron2(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    values = yaml.safe_load(VOC_C4)
    values["MODEL"]["RESNETS"] |= {"RES5_DILATION": 1, "DEFORM_ON_PER_STAGE": [False] * 4, "DEPTH": 50}
    for where, new, content in cases(values, 1):
        path.write_text(yaml.safe_dump(content, allow_unicode=False), encoding="utf-8")
        assert is_told(path, (where, new)), (where, new)


@pytest.mark.parametrize(("text", "seed"), [(CITYSCAPES_FCN, 2), (COCO_FPN, 3), (COCO_FPN + COCO_C4_HEAD, 4)])
def test_of_openmmlab(tmp_path: Path, text: str, seed: int) -> None:
    values = openmmlab_config.read(python_config(tmp_path, text))
    # Every value a literal again: what is not finite, too.
    for where, new, content in cases(values, seed):
        lines = "".join(f"{key} = {value!r}\n" for key, value in content.items())
        path = python_config(tmp_path, lines.replace("inf", "1e999").replace("nan", "(1e999 - 1e999)"))
        assert is_told(path, (where, new)), (where, new)


@pytest.mark.parametrize(
    "setting",
    [
        "MODEL: {BACKBONE: {FREEZE_AT: 0x" + "f" * 5000 + "}}",
        "SOLVER: {STEPS: \"(18000, '22000')\"}",
        "SOLVER: {IMS_PER_BATCH: .inf}",
        "SOLVER: {IMS_PER_BATCH: .nan}",
        "SOLVER: {IMS_PER_BATCH: 0.5}",
        "SOLVER: {BASE_LR: 1" + "0" * 140 + "}",
        "MODEL: {PIXEL_MEAN: [1" + "0" * 140 + ", 1, 1]}",
        "MODEL: {PIXEL_MEAN: [.nan, 1, 1]}",
        "MODEL: {BACKBONE: {NAME: 0x" + "f" * 100 + "}}",
        "MODEL: {WEIGHTS: " + "x" * 5000 + "}",
        'MODEL: {WEIGHTS: "a\\0b"}',
        "A: 1" + ":1" * 100_000,  # a number to the base 60, whose computation takes the square of its length
        "A: 1" + ":1" * 70 + ".5",
        "A: 2020-13-45",
    ],
)
def test_values_that_once_were_tracebacks_in_detectron2(tmp_path: Path, setting: str) -> None:
    data = "" if setting.startswith("SOLVER: {STEPS") else "DATASETS: {TRAIN: [voc_2007_trainval]}\n"
    (tmp_path / "base.yaml").write_text(VOC_C4, encoding="utf-8")
    path = tmp_path / "c.yaml"
    path.write_text(f"_BASE_: base.yaml\n{data}{setting}\n", encoding="utf-8")
    assert is_told(path, setting)


@pytest.mark.parametrize(
    "line",
    [
        "model['backbone']['dilations'] = 3",
        "train_dataloader['dataset']['pipeline'] = 3",
        "param_scheduler[0]['milestones'] = 3",
        "param_scheduler[0].update(type='MultiStepLR', milestones=3)",
        "data_preprocessor['mean'] = [10 ** 64 * 10 ** 64, 1, 1]",
        "optim_wrapper['optimizer']['lr'] = 10 ** 64 * 10 ** 64",
        "train_dataloader['batch_size'] = 10 ** 64 * 10 ** 64",
        "auto_scale_lr = dict(base_batch_size=0)",
        "model['backbone']['out_indices'] = (1.0, 2)",
        "model['backbone']['num_stages'] = 4.0",
        "model['backbone']['strides'] = [[1], 2, 2, 2]",
        "model['backbone']['init_cfg']['checkpoint'] = 'x' * 5000",
        "model['neck'] = {(1, 2): dict(norm_cfg=dict(type='BN'))}",
    ],
)
def test_values_that_once_were_tracebacks_in_openmmlab(tmp_path: Path, line: str) -> None:
    assert is_told(python_config(tmp_path, CITYSCAPES_FCN, line, name="c.py"), line)
