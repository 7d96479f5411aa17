from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from converters.errors import UserError
from converters.lint import openmmlab_config


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def without_scope(value: Any) -> Any:
    """mmengine marks what came from `package::`; types as their short names."""
    if isinstance(value, dict):
        return {key: without_scope(inner) for key, inner in value.items() if key != "_scope_"}
    if isinstance(value, (list, tuple)):
        return type(value)(without_scope(inner) for inner in value)
    return value


def mmengines(path: Path) -> Any:
    pytest.importorskip("mmengine")
    from mmengine.config import Config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated configurations
        return without_scope(Config.fromfile(str(path), import_custom_modules=False).to_dict())


BASE = """\
norm_cfg = dict(type='SyncBN', requires_grad=True)
backend_args = None
scales = [(1333, 640), (1333, 800)]
model = dict(
    type='EncoderDecoder', pretrained='open-mmlab://x',
    backbone=dict(type='ResNetV1c', depth=50, norm_cfg=norm_cfg, dilations=(1, 1, 2, 4)),
    decode_head=[dict(type='FCNHead', num_classes=19), dict(type='FCNHead', num_classes=19)])
custom = {'with space': 1, 'b.c': [1, 2, {'d': None}]}
"""

TOPS = {
    "merge": """
_base_ = './base.py'
model = dict(pretrained=None, backbone=dict(depth=18))
new = dict(a=dict(b=1))
""",
    "delete": "_base_ = ['base.py']\nmodel = dict(backbone=dict(_delete_=True, type='ResNet', depth=50))\n",
    "delete where nothing is": "_base_ = 'base.py'\nfresh = dict(_delete_=True, a=1)\n",
    "text variables": """
_base_ = 'base.py'
a = {{_base_.model.backbone.depth}}
b = dict(c=[{{ _base_.norm_cfg }}])
""",
    "references": """
_base_ = 'base.py'
model = _base_.model
model['backbone']['depth'] = 101
d = _base_.model.backbone.type
scales = _base_.scales[:1]
x = _base_.model.decode_head[0].num_classes
""",
    "changes of the base": """
_base_ = 'base.py'
_base_.model.backbone.norm_cfg.type = 'BN'
_base_.scales = [1]
""",
    "update goes deep": """
_base_ = 'base.py'
_base_.model.update(dict(backbone=dict(depth=34)))
own = dict(a=dict(b=1))
own.update(dict(a=dict(c=2)))
""",
    "names of the file": "work_dir = './work_dirs/{{ fileBasenameNoExtension }}{{fileExtname}}'\n",
    "environment": "root = '{{$LINT_TEST_ROOT:/data}}'\nclasses = {{'$LINT_TEST_CLASSES:80'}}\n",
    "arithmetic": """
a = 2 ** 3 + 7 // 2 - -1.5 * 4 % 3
b = [0] * 3 + [1]
c = not a > 3 and 'x' in 'xyz'
d = 1 if a else 2
e = (1, *b)
f = {**dict(a=1), 'b': 2}
g = b[1:3]
""",
    "comprehensions": """
r = [dict(s=x * y) for x in (0.5, 1.5) for y in range(3) if y]
d = {f'l{i}.{n}': i for i, n in enumerate(['a', 'b'])}
s = sum(len(v) for v in [[1], [2, 3]])
del d['l0.a']
""",
    "strings": """
a = 'x-{}-{b}'.format(1, b=2)
b = f'{3:03d} {a!r}'
c = '%s/%d' % ('p', 4)
d = 'a' 'b'
e = 'a.b'.split('.')
""",
    "copies": """
import copy
a = [dict(x=1)]
b = copy.deepcopy(a)
b[0]['x'] = 2
a += [3]
n: int = 4
n *= 2
c = d = []
""",
    "functions": """
a = max(1, 2) + round(2.6) + int('3') + abs(-1)
b = list(zip([1, 2], 'ab'))
c = sorted({3, 1})
d = tuple(range(3))
""",
    "hidden": "_base_ = 'base.py'\n__secret = 1\n_kept = 2\n'''a text'''\npass\n",
}


@pytest.mark.parametrize("top", list(TOPS))
def test_a_construct_gives_what_mmengine_gives(tmp_path: Path, top: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINT_TEST_ROOT", "/elsewhere")
    write(tmp_path / "base.py", BASE)
    path = write(tmp_path / "top.py", TOPS[top])
    mine = openmmlab_config.read(path)
    assert mine == mmengines(path)
    assert mine


NEW_STYLE = """\
from mmengine.config import read_base
from mmengine.model import BaseModule
from torch.optim import SGD

with read_base():
    from .base import *
    from .sub.more import steps as milestones

model.update(dict(backbone=dict(depth=18)))
model.merge(dict(decode_head=dict(_delete_=True, type='FCNHead')))
model.backbone.norm_cfg = dict(type='BN')
optimizer = dict(type=SGD, lr=0.01, module=BaseModule)
"""


def test_the_new_style_gives_what_mmengine_gives(tmp_path: Path) -> None:
    write(tmp_path / "base.py", BASE)
    write(tmp_path / "sub" / "more.py", "steps = [8, 11]\nother = 1\n")
    path = write(tmp_path / "top.py", NEW_STYLE)
    mine = openmmlab_config.read(path)
    assert mine["optimizer"] == {"type": "SGD", "lr": 0.01, "module": "BaseModule"}
    theirs = mmengines(path)
    # The frameworks resolve a class; the name is enough here.
    assert theirs.pop("optimizer")["type"].endswith("SGD")
    assert {key: mine[key] for key in theirs} == theirs
    assert set(mine) == {*theirs, "optimizer"}


SHIPPED = [
    ("mmseg", "fcn/*.py", 1),
    ("mmseg", "deeplabv3/*.py", 9),
    ("mmseg", "deeplabv3plus/*.py", 12),
    ("mmseg", "upernet/*.py", 5),
    ("mmdet", "faster_rcnn/*c4*.py", 1),
    ("mmdet", "mask_rcnn/*.py", 9),
    ("mmdet", "selfsup_pretrain/*.py", 2),
    ("mmpretrain", "mobileone/*.py", 3),
]


@pytest.mark.parametrize(("package", "pattern", "every"), SHIPPED)
def test_shipped_configurations_give_what_mmengine_gives(package: str, pattern: str, every: int) -> None:
    pytest.importorskip(package)
    folder = openmmlab_config.installed(package, Path()) / ".mim" / "configs"
    paths = sorted(folder.glob(pattern))[::every]
    assert paths
    for path in paths[:10]:
        assert without_scope(openmmlab_config.read(path)) == mmengines(path), path


def test_a_base_in_an_installed_package_is_found_without_importing_it(tmp_path: Path) -> None:
    pytest.importorskip("mmseg")
    path = write(tmp_path / "top.py", "_base_ = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py'\n")
    values = openmmlab_config.read(path)
    assert values["model"]["backbone"]["type"] == "ResNetV1c"
    with pytest.raises(UserError, match="the package mmabsent"):
        openmmlab_config.read(write(tmp_path / "absent.py", "_base_ = 'mmabsent::a/b.py'\n"))


EVIL = [
    "open({canary!r}, 'w')",
    "import pathlib\npathlib.Path({canary!r}).touch()",
    "from pathlib import Path\nPath({canary!r}).touch()",
    "__import__('os').mkdir({canary!r})",
    "a = (lambda: 0).__globals__",
    "a = ().__class__.__base__.__subclasses__()",
    "a = '{{0.__class__}}'.format(1)",
    "a = dict.__init__",
    "exec('1')",
    "eval('1')",
    "a = dict(b=getattr(dict, 'x'))",
    "for i in range(3):\n    a = i",
    "while True:\n    pass",
    "def f():\n    pass",
    "class A:\n    pass",
    "if True:\n    a = 1",
    "try:\n    a = 1\nexcept Exception:\n    pass",
    "import os",
    "from os import *",
    "with open({canary!r}, 'w') as f:\n    pass",
    "_base_ = open({canary!r}, 'w')",
    "_base_ = [x for x in ().__class__]",
    "a = [x async for x in b]",
    "a = b'bytes'",
    "a = x",
    "a = 1 / 0",
    "a = dict(b=1)['c']",
    "a, b = 1, 2, 3",
    "a = {{}}.setdefault.__self__",
    "dict = 3\na = dict(b=1)",
    "custom_imports = dict(imports=['x'])\ncustom_imports.clear.__call__()",
    "(1).real = 3",
    "assert False",
    "raise ValueError",
    "global a",
    "a = yield",
    "print('x')",
]


@pytest.mark.parametrize("code", EVIL)
def test_what_is_no_data_is_refused_and_nothing_runs(tmp_path: Path, code: str) -> None:
    canary = tmp_path / "canary"
    path = write(tmp_path / "evil.py", "model = dict()\n" + code.format(canary=str(canary)) + "\n")
    with pytest.raises(UserError, match=r"evil.py") as caught:
        openmmlab_config.read(path)
    assert "line " in str(caught.value)
    assert not canary.exists()


def test_the_error_names_file_line_and_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "c.py", "a = 1\n\nb = compute(a)\n")
    with pytest.raises(UserError, match=r"c.py, line 3: .* found a call of compute; .* --execute"):
        openmmlab_config.read(path)


ALIASED = (
    "b = str(a)",
    "b = f'{a!r}'",
    "b = '%s' % (a,)",
    "b = '{}'.format(a)",
    "b = a == (a,)",
    "b = a in [a, 1]",
    "b = {a: 1}",
    "b = {a}",
    "b = dict(x=1)\nb[a] = 2",
    "b = sorted([a, a])",
    "b = [a].index(1)",
    "_base_ = 'base.py'\n_base_.x = a",
    "_base_ = 'base.py'\n_base_.update(dict(x=a))",
)


@pytest.mark.parametrize(
    "code",
    [
        "a = 'x' * 10**9",
        "a = [0] * 10**9",
        "a = 9 ** 9 ** 9",
        "a = range(10**12)\nb = list(a)",
        "a = [x for x in range(10**9)]",
        "a = sum(range(10**15))",
        "a = f'{1:1000000000}'",
        "a = '%1000000000d' % 1",
        "a = '{:1000000000}'.format(1)",
        "a = 2\n" + "a = a * a\n" * 40,
        "a = [0] * 10\n" + "a = [a] * 10\n" * 12,
        "a = 'x' * 1000\n" + "a = a + a\n" * 40,
        "a = [1]\n" + "a += a\n" * 40,
        "a = 'a' * 1000\nb = a.replace('a', a).replace('a', a)",
        "a = " + "(" * 3000 + ")" * 3000,
        "a = " + "-" * 50_000 + "1",
        "a = " + "+".join(["1"] * 50_000),
        "a = []\na.append(a)",
        "a = []\na.append(a)\nb = str(a) == str(a)\nc = a == [a]",
        # Few values, which hold one another very many times over.
        *("a = (0,) * 10\n" + "a = (a,) * 10\n" * 12 + use for use in ALIASED),
        "a = ['x' * 100000 + str(i) for i in range(100000)]",
        "a = [[0] * 100000 for i in range(100000)]",
        "a = [1] * 50000\nb = [a[:] for i in range(50000)]",
        "a = sum([[x] for x in range(90000)], [])",
        "a = ('x' * 90000).join(['y'] * 90000)",
        "a = round(5, -10**9)",
        "a = '{:{w}}'.format(1, w=10**9)",
        "a = 10**9\nb = f'{1:{a}}'",
        "a = '%*d' % (10**9, 1)",
        "a = dict()\na['a'] = a",
    ],
)
def test_what_would_eat_memory_or_time_is_refused(tmp_path: Path, code: str) -> None:
    write(tmp_path / "base.py", "y = 1\n")
    with pytest.raises(UserError):
        openmmlab_config.read(write(tmp_path / "bomb.py", code + "\n"))


def test_a_text_that_a_slow_pattern_would_read_for_ages(tmp_path: Path) -> None:
    text = "a = 1  # " + "{{$a:" * 80_000 + "\n"
    assert openmmlab_config.read(write(tmp_path / "slow.py", text)) == {"a": 1}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"top.py": "_base_ = 'top.py'"}, "circle"),
        ({"top.py": "_base_ = 'a.py'", "a.py": "_base_ = './top.py'"}, "circle"),
        ({"top.py": "_base_ = 'absent.py'"}, "absent.py: expected a configuration file, found none"),
        ({"top.py": "_base_ = 'https://example.org/a.py'"}, "a local file"),
        ({"top.py": "_base_ = 3"}, "3 as a base"),
        ({"top.py": "_base_ = ['a.py', 'b.py']", "a.py": "x = 1", "b.py": "x = 2"}, "'x' in several"),
        ({"top.py": "_base_ = 'a.py'\nx = dict(y=1)", "a.py": "x = 1"}, "_delete_=True"),
        ({"top.py": "_base_ = 'a.py'\ny = {{_base_.z.w}}", "a.py": "x = 1"}, "no such name"),
        ({"top.py": "a = '{{$LINT_ABSENT:}}'"}, "LINT_ABSENT"),
        ({"top.py": "a = ("}, "valid Python"),
        ({"top.py": "a = 1\0"}, "valid Python"),
        ({"top.py": "with read_base():\n    from .absent import *"}, "absent.py"),
        ({"top.py": "with read_base():\n    import a"}, "something other than"),
        ({"top.py": "with read_base():\n    from .a import y", "a.py": "x = 1"}, "'y', which the base has not"),
        ({"top.py": "_base_ = 'a.py'", "a.py": "with read_base():\n    from .b import *"}, "style"),
    ],
)
def test_what_mmengine_could_not_read_either_is_one_line(tmp_path: Path, files: dict[str, str], found: str) -> None:
    for name, text in files.items():
        write(tmp_path / name, text + "\n")
    with pytest.raises(UserError) as caught:
        openmmlab_config.read(tmp_path / "top.py")
    assert found in str(caught.value)


def test_executing_is_asked_for_by_name(tmp_path: Path) -> None:
    pytest.importorskip("mmengine")
    canary = tmp_path / "canary"
    path = write(tmp_path / "code.py", f"import os\nos.mkdir({str(canary)!r})\nmodel = dict(a=1)\n")
    with pytest.raises(UserError):
        openmmlab_config.read(path)
    assert not canary.exists()
    assert openmmlab_config.execute(path)["model"] == {"a": 1}
    assert canary.exists()
    with pytest.raises(UserError, match="mmengine reads"):
        openmmlab_config.execute(write(tmp_path / "damaged.py", "model = (\n"))
