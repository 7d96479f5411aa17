"""Output that cannot be written: one error, and nothing left behind."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters import certificate, conversion, files
from converters.backbone import Backbone
from converters.certificate import Target
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond 4 MB, which the system refuses much as it refuses to fill a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with files.whole(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("x")])
def test_a_failed_write_keeps_what_was_there_and_leaves_no_partial(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with files.whole(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, CheckFailed), (errno.EDQUOT, CheckFailed), (errno.EACCES, UserError)]
)
def test_a_full_disk_is_a_failed_check_and_a_wrong_place_a_mistake(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^some/file: "), files.faults_of(Path("some/file")):
        raise OSError(number, "no")


@pytest.mark.usefixtures("little_room")
def test_a_backbone_that_does_not_fit_leaves_nothing(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"b\.safetensors: the file could not be written"):
        backbone.save(tmp_path / "b.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("target", ["backbone", "detectron2", "mmseg"])
def test_a_conversion_that_does_not_fit_leaves_nothing(backbone: Backbone, tmp_path: Path, target: Target) -> None:
    output = tmp_path / f"b{conversion.SUFFIXES[target]}"
    with pytest.raises(CheckFailed, match="the file could not be written"):
        conversion.convert(backbone, target, output)
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_file_can_be_is_a_mistake(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    impossible = [tmp_path / "file" / "b.safetensors", Path("/proc/b.safetensors"), tmp_path / ("b" * 300)]
    for path in (each.with_suffix(".safetensors") for each in impossible):
        with pytest.raises(UserError, match="expected a place where a file can be written") as caught:
            conversion.convert(backbone, "backbone", path)
        assert str(path) in str(caught.value)
        with pytest.raises(UserError, match="expected a place where a file can be written"):
            backbone.save(path)


@pytest.mark.parametrize("before", ["weights", "certificate"])
def test_an_interrupted_replacement_leaves_no_certificate_beside_other_weights(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    output = tmp_path / "b.safetensors"
    conversion.convert(backbone, "backbone", output)
    paper = tmp_path / "b.safetensors.certificate.json"
    assert certificate.read(paper).fingerprint == backbone.fingerprint
    last = {"weights": output, "certificate": paper}[before]
    move = files.move

    def interrupted(source: Path, destination: Path) -> None:
        if destination == last:
            raise KeyboardInterrupt
        move(source, destination)

    monkeypatch.setattr(files, "move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        conversion.convert(random_backbone("resnet18", 1), "backbone", output, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]
    kept = Backbone.load(output).fingerprint
    assert (kept == backbone.fingerprint) == (before == "weights")
