"""Pickles that would run code."""

from __future__ import annotations

import argparse
import datetime
import pickle
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
import torch

from converters import untrusted
from tests.hostile import CONTAINERS, content, inside, named, refusal, text

CALLS = {
    "a shell": ("posix.system", "touch {}"),
    "Python 2's eval": ("__builtin__.eval", "open({!r}, 'w')"),
    "exec": ("builtins.exec", "open({!r}, 'w')"),
    "a process": ("subprocess.check_output", "touch {}"),
    "a path": ("pathlib.Path.touch", "{}"),
    "a function beside paths": ("pathlib.os.system", "touch {}"),
    "a function beside dates": ("datetime.sys.exit", "{}"),
    "an import": ("importlib.import_module", "this"),
    "torch's own loader": ("torch.load", "{}"),
    "a loader within": ("torch.storage._load_from_bytes", "{}"),
    "a function of NumPy": ("numpy.load", "{}"),
    "a function of ours": ("converters.untrusted.load", "{}"),
    "an attribute of what is admitted": ("collections.OrderedDict.fromkeys", "{}"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("case", CALLS)
def test_a_call_is_named_and_not_made(tmp_path: Path, container: str, case: str) -> None:
    name, argument = CALLS[case]
    canary = tmp_path / "canary"
    stream = content(named(name) + text(argument.format(str(canary))) + b"\x85R")
    line = refusal(tmp_path / "c.pth", inside(container, stream))
    shown = name.replace("__builtin__", "builtins")
    assert f"expected tensors and plain data only, found a pickled {shown}, which is not run" in line
    assert "save its state dict alone, where you trust the file" in line
    assert not canary.exists()


class Runs:
    """Would make a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_run_nothing(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    pickled = pickle.dumps({"model": Runs(canary)}, protocol=protocol)
    assert "found a pickled io.open, which is not run" in refusal(tmp_path / "c.pkl", pickled).replace("_io.", "io.")
    assert not canary.exists()


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_runs_nothing(tmp_path: Path, new: bool) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": Runs(canary)}, tmp_path / "c.pth", _use_new_zipfile_serialization=new)
    assert "io.open, which is not run" in refusal(tmp_path / "c.pth", (tmp_path / "c.pth").read_bytes())
    assert not canary.exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"\x82\x01", "0x82 in a pickle"),  # EXT1, a number in copyreg's registry
        (b"(cposix\nsystem\no", "a pickled posix.system"),  # OBJ
        (b"(iposix\nsystem\n", "0x69 in a pickle"),  # INST
        (b"}Pname\n", "0x50 in a pickle"),  # PERSID
        (b"I1\n", "0x49 in a pickle"),  # text operations of protocol 0
        (b"N2", "0x32 in a pickle"),  # DUP
        (b"\x97", "0x97 in a pickle"),  # NEXT_BUFFER
    ],
)
def test_operations_that_no_writer_of_checkpoints_uses(
    tmp_path: Path, container: str, operations: bytes, message: str
) -> None:
    assert message in refusal(tmp_path / "c.pth", inside(container, content(operations)))


@pytest.mark.parametrize("container", CONTAINERS)
def test_attributes_of_a_dictionary_would_hide_its_methods(tmp_path: Path, container: str) -> None:
    stream = content(named("collections.OrderedDict") + b")R}" + text("items") + b"Nsb")
    assert "OrderedDict without attributes" in refusal(tmp_path / "c.pth", inside(container, stream))


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_function_cannot_be_changed(tmp_path: Path, container: str) -> None:
    # BUILD with a pair sets attributes: of a function, its defaults.
    stream = content(named("numpy.core.multiarray._reconstruct") + b"N}" + text("__defaults__") + b")s\x86b")
    assert "a state for numpy.core.multiarray._reconstruct" in refusal(tmp_path / "c.pth", inside(container, stream))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("encoding", ["rot13", "zlib_codec", "idna"])
def test_a_codec_is_not_chosen_by_a_file(tmp_path: Path, container: str, encoding: str) -> None:
    stream = content(named("_codecs.encode") + text("abc") + text(encoding) + b"\x86R")
    assert "bytes in a call of _codecs.encode" in refusal(tmp_path / "c.pth", inside(container, stream))


STAND_INS = ("argparse.Namespace", "omegaconf.dictconfig.DictConfig", "mmengine.logging.history_buffer.HistoryBuffer")


@pytest.mark.parametrize("container", CONTAINERS[:2])
@pytest.mark.parametrize("name", STAND_INS)
def test_an_object_beside_the_weights_is_empty(tmp_path: Path, container: str, name: str) -> None:
    state = b"}(" + text("__class__") + named("collections.Counter") + text("epochs") + b"K\x08u"
    path = tmp_path / "c.pth"
    path.write_bytes(inside(container, content(named(name) + b")\x81" + state + b"b")))
    found = untrusted.load(path).content["state_dict"]
    assert type(found).__module__ == "converters.stand_ins"
    assert not vars(found)


@pytest.mark.parametrize("container", CONTAINERS[:2])
def test_a_dictionary_of_lightning_is_a_plain_one(tmp_path: Path, container: str) -> None:
    made = named("pytorch_lightning.utilities.parsing.AttributeDict") + b")\x81(" + text("epochs") + b"K\x08u"
    path = tmp_path / "c.pth"
    path.write_bytes(inside(container, content(made)))
    assert untrusted.load(path).content == {"state_dict": {"epochs": 8}}
    assert "which is not run" in refusal(tmp_path / "c.pkl", content(made))


@pytest.mark.parametrize("new", [True, False])
def test_real_hyper_parameters_and_logs_are_not_run(tmp_path: Path, new: bool) -> None:
    from omegaconf import OmegaConf

    path = tmp_path / "c.ckpt"
    parameters = OmegaConf.create({"optimizer": {"lr": 0.3, "milestones": [60, 80]}, "name": None})
    content = {"hyper_parameters": parameters, "state_dict": {"x": torch.ones(2)}, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    read = untrusted.load(path).content
    assert type(read["hyper_parameters"]).__module__ == "converters.stand_ins"
    assert torch.equal(read["state_dict"]["x"], torch.ones(2))
    assert read["epoch"] == 3


BESIDE: dict[str, Any] = {
    "a path": PurePosixPath("/data/imagenet"),
    "a path of this machine": Path("data"),
    "a path of Windows": PureWindowsPath("C:/data"),
    "a time": datetime.datetime(2020, 3, 9, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    "a day": datetime.date(2020, 3, 9),
    "a while": datetime.timedelta(seconds=3),
    "a frozen set": frozenset({1, "a"}),
    "a range": range(0, 200, 10),
    "a slice": slice(1, None, 2),
}


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("case", BESIDE)
def test_plain_objects_beside_the_weights_are_not_run(tmp_path: Path, case: str, new: bool) -> None:
    path = tmp_path / "c.pth"
    content = {"args": argparse.Namespace(value=BESIDE[case]), "value": [BESIDE[case]], "model": {"x": torch.ones(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    read = untrusted.load(path).content
    for found in (read["args"], *read["value"]):
        assert type(found).__module__ == "converters.stand_ins"
        assert not vars(found)
    assert torch.equal(read["model"]["x"], torch.ones(2))
