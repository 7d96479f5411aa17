"""The sample data as a whole: same bytes for the same seed, labelled, whole or absent, wrong use refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters.dataset_fingerprint import SAMPLE_MARKER, is_sample
from converters.errors import MissingPackage, UserError
from transfer.__main__ import main
from transfer.sample import scenes
from transfer.sample.generate import SIZES, SampleSize, generate
from transfer.sample.materials import MATERIALS

SMALLEST = SampleSize(crops_train=2, crops_val=1, crop_px=32, scenes_train=3, scenes_val=2, scene_px=64)


def digests(root: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "transfer", "data", "sample", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_same_seed_gives_same_bytes_in_another_process(tmp_path: Path) -> None:
    generate(tmp_path / "here", SIZES["tiny"], seed=3)
    done = command(str(tmp_path / "far" / "there"), "--size", "tiny", "--seed", "3", PYTHONHASHSEED="77")
    assert done.returncode == 0, done.stderr
    here = digests(tmp_path / "here")
    assert here == digests(tmp_path / "far" / "there")
    assert len(here) > 300


def test_another_seed_gives_other_images(tmp_path: Path) -> None:
    for seed in (0, 1):
        generate(tmp_path / str(seed), SMALLEST, seed)
    first, second = digests(tmp_path / "0"), digests(tmp_path / "1")
    assert first.keys() == second.keys()
    # The image sets of VOC list file names alone.
    assert {path for path in first if first[path] == second[path]} == {
        f"voc/VOCdevkit/VOC2007/ImageSets/Main/{name}.txt" for name in ("train", "val", "trainval", "test")
    }


def test_a_smaller_size_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    generate(tmp_path / "less", SMALLEST, seed=0)
    generate(tmp_path / "more", SMALLEST.model_copy(update={"crops_train": 3, "crops_val": 2, "scenes_train": 5}), 0)
    less, more = digests(tmp_path / "less"), digests(tmp_path / "more")
    images = {path: digest for path, digest in less.items() if path.endswith((".png", ".jpg", ".xml"))}
    assert len(images) == 19 * 3 + 5 * (2 + 1 + 4)
    assert images == {path: more[path] for path in images}


def test_every_root_is_labelled(tmp_path: Path) -> None:
    generate(tmp_path / "out", SMALLEST, seed=5)
    for layout in (None, "images", "voc", "coco", "cityscapes"):
        root = tmp_path / "out" / (layout or "")
        assert is_sample(root)
        marker = json.loads((root / SAMPLE_MARKER).read_text())
        assert "nothing about real benchmarks" in marker["notice"]
        assert marker["seed"] == 5
        assert marker["size"] == SMALLEST.model_dump()
        assert marker.get("layout") == layout
        assert marker["packages"].keys() == {"numpy", "pillow", "scikit-image", "scikit-learn"}
        assert marker["photographs"].keys() == {material.name for material in MATERIALS}
        maps = marker["classes"].values() if layout is None else [marker["classes"]]
        for classes in maps:
            assert list(classes) == [material.name for material in MATERIALS]
            assert len({json.dumps(name) for name in classes.values()}) == 19


def test_command_prints_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["data", "sample", str(out), "--size", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "152 train, 76 val" in printed
    assert "20 train, 10 val" in printed
    assert "nothing about real benchmarks" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("size", SIZES)
def test_command_knows_every_size(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The folder, which exists, is refused after the size was understood.
    assert main(["data", "sample", str(tmp_path), "--size", size]) == 2
    assert "expected a path that does not exist" in capsys.readouterr().err


def test_unknown_size_is_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "sample", str(tmp_path / "out"), "--size", "huge"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert all(size in message for size in SIZES)


def test_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed of 0 or larger, found -1"):
        generate(tmp_path / "out", SMALLEST, seed=-1)
    assert not list(tmp_path.iterdir())


def test_existing_path_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for options in ([], ["--force"]):
        assert main(["data", "sample", str(tmp_path / "out"), "--size", "tiny", *options]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert digests(tmp_path) == {"out/mine.txt": hashlib.sha256(b"mine").hexdigest()}


def test_force_replaces_sample_data_and_empty_folders(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    generate(out, SMALLEST, seed=0, force=True)
    with pytest.raises(UserError, match="--force"):
        generate(out, SMALLEST, seed=1)
    (out / "stale.txt").write_text("stale")
    generate(out, SMALLEST, seed=1, force=True)
    assert json.loads((out / SAMPLE_MARKER).read_text())["seed"] == 1
    assert not (out / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a folder that can be written"):
        generate(tmp_path / "file" / "out", SMALLEST, seed=0)


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "out", SMALLEST, seed=0)
    assert not list(tmp_path.iterdir())


def test_absent_photograph_is_named(tmp_path: Path) -> None:
    """A scikit-image without its pictures is found first on the path."""
    (tmp_path / "path" / "skimage").mkdir(parents=True)
    (tmp_path / "path" / "skimage" / "__init__.py").write_text("")
    paths = os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])
    done = command(str(tmp_path / "out"), "--size", "tiny", PYTHONPATH=paths)
    assert done.returncode == 2
    assert "'astronaut' in scikit-image" in done.stderr
    assert "astronaut.png" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackage, match="pip install scikit-learn"):
        generate(tmp_path / "out", SMALLEST, seed=0)


def test_generation_loads_neither_torch_nor_the_packages_with_photographs(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom transfer.sample.generate import SampleSize, generate\n"
        f"generate(Path({str(tmp_path / 'out')!r}), SampleSize(**{SMALLEST.model_dump()!r}), 0)\n"
        "print(sorted({'torch', 'skimage', 'sklearn', 'pooch', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
