"""A folder or list of images -> tar shards, which webdataset reads too."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import base_plus_ext

from converters.distributed import World
from converters.errors import CheckFailed, UserError
from pretrain.input.images import ImageFolder, ImageList, open_source
from pretrain.input.loading import Loader
from pretrain.input.pack import Packing, keys, pack
from pretrain.input.shards import Shards
from pretrain.recipes import QUICKSTART_MOCO_V1
from tests.pretrain.made_shards import as_webdataset_reads, jpeg
from transfer.__main__ import main

SMALL = Packing(size=32, shard_images=4)


def smooth(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images: large and small JPEGs, PNGs, a grey one, one with dots in its name."""
    root = tmp_path / "images" / "train"
    for name, size in (
        ("a/large.jpg", (120, 80)),
        ("a/tall.JPEG", (50, 300)),
        ("a/small.jpg", (32, 60)),
        ("a/v1.2.jpg", (64, 64)),
        ("b.d/large.png", (90, 70)),
        ("b.d/small.png", (20, 20)),
        ("b.d/same.png", (40, 40)),
        ("b.d/same.jpg", (40, 40)),
        ("top.webp", (48, 96)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        smooth(*size, seed=len(name)).save(root / name)
    smooth(70, 70, seed=1).convert("L").save(root / "b.d" / "grey.png")
    return tmp_path / "images"


def samples(out: Path) -> dict[str, dict[str, bytes]]:
    """Key -> ending -> bytes, as webdataset reads them."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with path.open("rb") as stream:
            for sample in as_webdataset_reads(stream, str(path)):
                found[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
    return found


def test_webdataset_reads_what_is_packed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    index = pack(ImageFolder.open(folder), out, SMALL)
    assert {key: list(files) for key, files in samples(out).items()} == {
        "a/large": ["jpg"],
        "a/tall": ["jpg"],
        "a/small": ["jpg"],
        "a/v1%2E2": ["jpg"],
        "b.d/large": ["jpg"],
        "b.d/small": ["png"],
        "b.d/same%2Epng": ["jpg"],
        "b.d/same%2Ejpg": ["jpg"],
        "b.d/grey": ["jpg"],
        "top": ["jpg"],
    }
    assert sorted(path.name for path in out.iterdir()) == [*(f"packed-{n:06d}.tar" for n in range(3)), "shards.json"]
    assert json.loads((out / "shards.json").read_text()) == index.model_dump(mode="json", by_alias=True)
    assert [shard.images for shard in index.shards] == [4, 4, 2]
    assert [shard.bytes for shard in index.shards] == [path.stat().st_size for path in sorted(out.glob("*.tar"))]
    assert (index.images, index.damaged) == (10, ())
    assert index.source.fingerprint == ImageFolder.open(folder).fingerprint


def test_large_images_are_scaled_to_the_shorter_side_and_others_stored_as_they_are(
    folder: Path, tmp_path: Path
) -> None:
    pack(ImageFolder.open(folder), tmp_path / "packed", SMALL)
    found = samples(tmp_path / "packed")
    root = folder / "train"
    assert found["a/small"]["jpg"] == (root / "a/small.jpg").read_bytes()
    assert found["b.d/small"]["png"] == (root / "b.d/small.png").read_bytes()
    for key, name, size in (
        ("a/large", "a/large.jpg", (48, 32)),
        ("a/tall", "a/tall.JPEG", (32, 192)),
        ("b.d/large", "b.d/large.png", (41, 32)),
        ("b.d/grey", "b.d/grey.png", (32, 32)),
        ("top", "top.webp", (32, 64)),
    ):
        with Image.open(io.BytesIO(found[key]["jpg"])) as packed, Image.open(root / name) as original:
            assert (packed.format, packed.size) == ("JPEG", size)
            # Smooth pictures: scaled in one step to full precision they look the same but for the JPEG's own loss.
            expected = np.asarray(original.convert("RGB").resize(size, Image.Resampling.BOX), dtype=float)
            assert np.abs(np.asarray(packed.convert("RGB"), dtype=float) - expected).mean() < 4, key


def test_orientation_flags_are_left_out_and_pixels_not_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    smooth(80, 40, 0).save(tmp_path / "images" / "turned.jpg", exif=exif)
    pack(ImageFolder.open(tmp_path / "images"), tmp_path / "packed", SMALL)
    with Image.open(io.BytesIO(samples(tmp_path / "packed")["turned"]["jpg"])) as packed:
        assert packed.size == (64, 32)
        assert 0x0112 not in packed.getexif()


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_bytes_do_not_depend_on_place_time_or_jobs(folder: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(folder), tmp_path / "one" / "packed", SMALL)
    for path in sorted(folder.rglob("*.*")):
        if path.is_file():
            os.utime(path, (1, 1))
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "data")
    pack(ImageFolder.open(moved), tmp_path / "two" / "packed", SMALL, jobs=2)
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(path) for path in reversed(ImageFolder.open(moved).paths)))
    pack(ImageList.open(listed), tmp_path / "three" / "packed", SMALL)
    assert content(tmp_path / "one" / "packed") == content(tmp_path / "two" / "packed")
    assert content(tmp_path / "one" / "packed") == content(tmp_path / "three" / "packed")
    with tarfile.open(tmp_path / "one" / "packed" / "packed-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_classes_are_spread_over_the_shards(tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / "images" / f"class{number // 20}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    pack(ImageFolder.open(tmp_path / "images"), tmp_path / "packed", Packing(shard_images=20))
    for shard in sorted((tmp_path / "packed").glob("*.tar")):
        with tarfile.open(shard) as tar:
            assert len({name.split("/")[0] for name in tar.getnames()}) == 3


names = st.lists(st.text("ab.%/_2E5F", min_size=1, max_size=8), min_size=1, max_size=8, unique=True).map(
    lambda found: [name for name in found if all(name.split("/")) and not name.split("/")[-1].startswith(".")]
)


@settings(deadline=None)
@given(names)
def test_keys_are_different_and_webdataset_cuts_them_where_they_end(found: list[str]) -> None:
    made = keys(found)
    assert len(made) == len(set(made)) == len(found)
    for key in made:
        assert base_plus_ext(f"{key}.jpg") == (key, "jpg")
    # Most names need nothing: they stay as they are.
    assert keys(["a/x.jpg", "b/x.png"]) == ["a/x", "b/x"]


def test_damaged_images_are_left_out_and_listed_up_to_a_share(folder: Path, tmp_path: Path) -> None:
    large, small = folder / "train" / "a" / "large.jpg", folder / "train" / "b.d" / "small.png"
    large.write_bytes(large.read_bytes()[:-200])
    small.write_bytes(b"no image")
    source = ImageFolder.open(folder)
    for share in (0.0, 0.1, 0.19):
        with pytest.raises(CheckFailed, match=r"images are damaged, the last .*--max-damaged"):
            pack(source, tmp_path / "packed", Packing(32, 4, max_damaged=share))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    index = pack(source, tmp_path / "packed", Packing(32, 4, max_damaged=0.2), jobs=2)
    assert sorted(image.name for image in index.damaged) == ["a/large.jpg", "b.d/small.png"]
    reasons = {image.name: image.reason for image in index.damaged}
    assert "truncated" in reasons["a/large.jpg"]
    assert reasons["b.d/small.png"] == "no image that Pillow knows"
    assert [shard.images for shard in index.shards] == [4, 4]
    assert not {"a/large", "b.d/small"} & set(samples(tmp_path / "packed"))
    for path in source.paths:
        path.write_bytes(b"")
    with pytest.raises(CheckFailed, match="none of 10 images can be read"):
        pack(source, tmp_path / "all", Packing(32, 4, max_damaged=1))


def test_what_is_packed_is_pretrained_on(folder: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(folder), tmp_path / "packed", SMALL)
    found = open_source(tmp_path / "packed")
    assert isinstance(found, Shards)
    assert (found.count, found.sample) == (10, False)
    recipe = QUICKSTART_MOCO_V1.overridden(("batch_size=5", "workers=2"))

    def maker(image: Image.Image, epoch: int, number: int) -> tuple[torch.Tensor, ...]:
        return (torch.tensor(image.convert("RGB").size),)

    loader = Loader(found, recipe, World(0, 1, 1, torch.device("cpu")), maker, seed=0)
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert not any(batch.faults for batch in batches)
        assert len({number for batch in batches for number in batch.number.tolist()}) == 10
        assert sum((batch.views[0].amin(dim=1) == 32).sum().item() for batch in batches) == 9


def test_out_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    source, out = ImageFolder.open(folder), tmp_path / "packed"
    pack(source, out, SMALL)
    before = content(out)
    with pytest.raises(UserError, match=r"expected no file or folder there, found one; .*--force"):
        pack(source, out, SMALL)
    pack(source, out, Packing(size=16, shard_images=4), force=True)
    assert content(out) != before
    (out / "mine.txt").write_text("kept")
    other, file = tmp_path / "other", tmp_path / "file"
    other.mkdir()
    (other / "thesis.txt").write_text("kept")
    file.write_text("kept")
    for taken in (out, other, file):
        with pytest.raises(UserError, match="expected packed shards to replace, found something else"):
            pack(source, taken, SMALL, force=True)
    assert (out / "mine.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "images", "other", "packed"]


def test_an_out_that_cannot_be_made_is_told_before_an_image_is_packed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = ImageFolder.open(folder)
    # The first four are folders with the source in them; none of the encoding may have begun.
    monkeypatch.setattr("pretrain.input.pack._write", lambda *_: pytest.fail("packed"))
    for out in (".", "new/..", "images/..", "images", "..", "/", "/proc", "x" * 5000, "images/train/top.webp/x"):
        for force in (False, True):
            with pytest.raises(UserError):
                pack(source, Path(out), SMALL, force=force)
    with pytest.raises(UserError, match="expected a folder that can be renamed, found a mount point"):
        pack(source, Path("/proc"), SMALL, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_out_may_be_the_current_folder_if_it_is_to_be_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "packed"
    out.mkdir()
    monkeypatch.chdir(out)
    pack(ImageFolder.open(folder), Path(), SMALL, force=True)
    assert sorted(content(out)) == [*(f"packed-{n:06d}.tar" for n in range(3)), "shards.json"]


def test_what_a_killed_run_left_is_no_hindrance(folder: Path, tmp_path: Path) -> None:
    left = tmp_path / ".packed.partial"
    left.mkdir()
    (left / "packed-000009.tar").write_bytes(b"half")
    (left / ".packed-000010.tar.partial").write_bytes(b"half")
    pack(ImageFolder.open(folder), tmp_path / "packed", SMALL)
    assert sorted(content(tmp_path / "packed")) == [*(f"packed-{n:06d}.tar" for n in range(3)), "shards.json"]
    assert not left.exists()


def test_the_command_packs_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data", "pack", str(folder), "packed", "--size", "32", "--shard-images", "4", "--jobs", "1"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "packed: 10 images in 3 shards, " in told.out
    assert "moco-transfer pretrain moco-v2@1 --data packed -o OUT" in told.out
    assert "packing  10/10" in told.err
    assert main(words) == 2
    assert "packed: expected no file or folder there, found one" in capsys.readouterr().err
    assert main(["data", "pack", "packed", "again"]) == 2
    assert "expected a folder of images or a list of files, found tar shards" in capsys.readouterr().err
    for odd in ("", "a\0b"):
        with pytest.raises(SystemExit) as caught:
            main(["data", "pack", str(folder), odd])
        assert caught.value.code == 2
        assert "expected a folder, found" in capsys.readouterr().err
    assert main(["data", "pack", "", "out"]) == 2
    assert "expected a folder of images, a list of files, or tar shards, found ''" in capsys.readouterr().err
    for option, value in (("--size", "0"), ("--quality", "96"), ("--max-damaged", "2"), ("--jobs", "x")):
        with pytest.raises(SystemExit) as caught:
            main([*words, option, value])
        assert caught.value.code == 2


def test_packing_loads_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from transfer.__main__ import main; "
        f"main(['data', 'pack', {str(folder)!r}, {str(tmp_path / 'packed')!r}, '--jobs', '1']); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
