"""The cache: one computation for all who ask, whole or absent, and never somebody else's values."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from converters import distributed
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.metadata import Preprocess
from converters.projection import ProjectionHead
from evaluators.datasets.labelled import Split, load_image
from evaluators.features import network
from evaluators.features.cache import Entry
from evaluators.features.compute import Features, compute, notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.features.layers import EMBEDDING, POOLED, Layer
from evaluators.features.network import Network
from evaluators.job import Job
from evaluators.protocol import NotApplicable
from evaluators.protocols import CATALOGUE
from evaluators.settings.knn import KnnSettings
from tests.distributed import run_ranks

BACKBONE = random_backbone("resnet18", 0)
GRID = Layer(stage="res2", pool=(4, 4, 0))


@dataclass(frozen=True)
class Noted:
    """Reads images and writes down which."""

    paths: tuple[Path, ...]
    log: Path
    delay: float = 0.0

    def __call__(self, index: int) -> Image.Image:
        time.sleep(self.delay)
        with self.log.open("a") as file:
            file.write(f"{index}\n")
        return load_image(self.paths[index])


def split_of(folder: Path, n: int = 7, delay: float = 0.0) -> Split:
    """`n` images of noise in `folder`, and a log of what was read."""
    paths = tuple(folder / f"{index:02d}.png" for index in range(n))
    folder.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        if not path.exists():
            noise = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    return Split("train", "ab" * 32, paths, np.arange(n) % 2, Noted(paths, folder / "log.txt", delay))


def read_since(split: Split, before: int = 8) -> list[int]:
    """What was read, without the first images, on which the network is checked each time."""
    assert isinstance(split.reader, Noted)
    read = [int(line) for line in split.reader.log.read_text().split()] if split.reader.log.exists() else []
    split.reader.log.unlink(missing_ok=True)
    return read[min(before, len(split)) :]


def put(path: Path, data: bytes) -> None:
    """Other bytes in a file that looks the same: as long, and as old."""
    before = path.stat()
    path.write_bytes(data[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def job(folder: Path, *, fresh: bool = False) -> Job:
    protocol = CATALOGUE["quickstart-knn@1"].overridden(("resize=36", "crop=32", "batch_size=3"))
    return Job(BACKBONE, folder, protocol, 0, torch.device("cpu"), folder, folder / "features", fresh=fresh)


def features(
    folder: Path, split: Split, *layers: Layer, fresh: bool = False, chunk: int | None = 2
) -> tuple[Features, ...]:
    work = job(folder, fresh=fresh)
    assert isinstance(work.protocol.settings, KnnSettings)
    frozen = freeze(BACKBONE, work.device, [view_of(work, work.protocol.settings)])
    return extract(work, frozen, split, work.protocol.settings, layers or (POOLED,), chunk=chunk)


def values(folder: Path, split: Split, **options: int) -> NDArray[np.float32]:
    return features(folder, split, **options)[0].values  # type: ignore[arg-type]


def cache(folder: Path) -> Path:
    (only,) = (path for path in (folder / "features").iterdir() if not path.name.startswith("."))
    return only


def test_features_are_those_of_one_plain_pass_and_are_read_only(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images")
    (found,) = features(tmp_path, split)
    work = job(tmp_path)
    assert isinstance(work.protocol.settings, KnnSettings)
    plain = compute(
        BACKBONE.module(), split, view_of(work, work.protocol.settings), batch_size=7, workers=0, label="plain"
    )
    np.testing.assert_allclose(found.values, plain.values, rtol=1e-4, atol=1e-5 * np.abs(plain.values).max())
    assert found.labels is split.labels
    assert isinstance(found.values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.values[0, 0] = 1.0
    copy = found.tensor(torch.device("cpu"))
    copy[0, 0] = 1.0
    assert np.array_equal(copy.numpy()[1:], found.values[1:])
    assert sorted(path.name for path in cache(tmp_path).iterdir()) == ["header.json", "values.f32"]
    header = json.loads((cache(tmp_path) / "header.json").read_text())
    assert (header["images"], header["dim"], header["dtype"], len(header["checksums"])) == (7, 512, "<f4", 4)
    assert header["identity"]["backbone"] == BACKBONE.fingerprint
    raw = np.fromfile(cache(tmp_path) / "values.f32", dtype="<f4").reshape(7, 512)
    assert np.array_equal(raw, found.values)


def test_all_layers_come_from_one_pass_and_each_is_kept_for_itself(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images")
    one, two, again = features(tmp_path, split, POOLED, GRID, POOLED)
    assert read_since(split) == list(range(7))
    assert np.array_equal(one.values, again.values)
    assert two.values.shape == (7, 64 * 2 * 2)
    third = Layer(stage="res3")
    kept = features(tmp_path, split, GRID, third)
    assert read_since(split) == list(range(7))  # for `third` alone
    assert np.array_equal(kept[0].values, two.values)
    assert np.array_equal(values(tmp_path, split), one.values)
    assert read_since(split, before=0) == []


def test_the_cache_is_used_and_fresh_computes_anew(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 3)
    first = values(tmp_path, split).copy()
    for path in split.paths:
        put(path, b"gone")
    assert np.array_equal(values(tmp_path, split), first)
    with pytest.raises(UserError, match=r"00\.png: expected an image that can be decoded"):
        values(tmp_path, split, fresh=True)
    assert np.array_equal(values(tmp_path, split), first)  # what was there stays until the new is whole


def test_whatever_decides_the_values_has_a_cache_of_its_own(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 2)
    work = job(tmp_path)
    assert isinstance(work.protocol.settings, KnnSettings)
    settings = work.protocol.settings
    other = replace(BACKBONE, preprocess=Preprocess(mean=(0.5, 0.5, 0.5)))
    cases: list[tuple[Job, Split, KnnSettings]] = [
        (work, split, settings),
        (work, replace(split, name="val"), settings),
        (work, replace(split, source="cd" * 32), settings),
        (work, split.take(np.array([1, 0])), settings),
        *(
            (work, split, settings.model_copy(update=change))
            for change in (
                {"interpolation": "bilinear"},
                {"resize": 38},
                {"crop": 30},
                {"geometry": "squash"},
                {"precision": "bf16"},
            )
        ),
        (replace(work, backbone=random_backbone("resnet18", 1)), split, settings),
        (replace(work, backbone=other), split, settings),
    ]
    found = []
    for each, images, options in cases:
        frozen = freeze(each.backbone, each.device, [view_of(each, options)])
        found.append(extract(each, frozen, images, options)[0].values)
    assert len([path for path in (tmp_path / "features").iterdir() if path.name != ".locks"]) == len(cases)
    assert np.array_equal(found[3], found[0][::-1])
    for index in (4, 5, 6, 8, 9, 10):  # squashing a square is no change
        assert not np.array_equal(found[index], found[0]), cases[index]


def test_the_embedding_is_that_of_the_backbones_head(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 3)
    with pytest.raises(NotApplicable, match=r"expected a backbone with its projection head.*found none beside"):
        features(tmp_path, split, EMBEDDING)
    work, found = job(tmp_path), []
    assert isinstance(work.protocol.settings, KnnSettings)
    frozen = freeze(BACKBONE, work.device, [view_of(work, work.protocol.settings)])
    for seed in (0, 1):
        weights = torch.randn(128, 512, generator=torch.Generator().manual_seed(seed))
        head = ProjectionHead({"weight": weights, "bias": torch.zeros(128)})
        with_head = replace(work, backbone=replace(BACKBONE, head=head))
        pooled, embedding = extract(with_head, frozen, split, work.protocol.settings, (POOLED, EMBEDDING))
        np.testing.assert_allclose(embedding.values, pooled.values @ weights.numpy().T, rtol=1e-3, atol=1e-2)
        found.append(embedding.values)
    assert not np.allclose(*found)  # a head of its own, a cache of its own


def noise(net: Network) -> None:
    for tensor in net.module.parameters():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)), alpha=1e-3)


def other_function(net: Network) -> None:
    """The same tensors compute something else."""
    net.module.trunk.relu = nn.LeakyReLU()


def zeros(net: Network) -> None:
    net.module.trunk.layer4[0].conv1.weight.zero_()


def other_head(net: Network) -> None:
    assert net.module.head is not None
    net.module.head.get_parameter("bias").add_(1.0)


@pytest.mark.parametrize(
    ("change", "message", "cut_short"),
    [
        pytest.param(noise, "the copy .* that computes features changed", False, id="noise"),
        pytest.param(zeros, "the copy .* that computes features changed", True, id="zeros, and a bad image"),
        pytest.param(other_head, "the copy .* that computes features changed", False, id="head"),
        pytest.param(other_function, "the copy .* computes something else", False, id="function"),
    ],
)
def test_a_copy_that_changes_in_mid_pass_leaves_no_features(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Network], None],
    message: str,
    cut_short: bool,
) -> None:
    """What is held against the backbone at the end is what computed, not the module that it was copied from."""
    split = split_of(tmp_path / "images", 12)
    good = split.paths[11].read_bytes()
    if cut_short:
        put(split.paths[11], b"")
    head = ProjectionHead({"weight": torch.eye(128, 512), "bias": torch.zeros(128)})
    work = replace(job(tmp_path), backbone=replace(BACKBONE, head=head))
    assert isinstance(work.protocol.settings, KnnSettings)
    prepare, write, prepared = network.prepare, Entry.write, []

    def preparing(*arguments: Any, **named: Any) -> Network:
        prepared.append(prepare(*arguments, **named))
        return prepared[-1]

    def writing(entry: Entry, chunk: int, *rest: Any) -> None:
        write(entry, chunk, *rest)
        if chunk == 1:
            with torch.inference_mode():
                change(prepared[-1])

    def run() -> NDArray[np.float32]:
        frozen = freeze(BACKBONE, work.device, [view_of(work, work.protocol.settings)])
        return extract(work, frozen, split, work.protocol.settings, (EMBEDDING,), chunk=2)[0].values

    with monkeypatch.context() as patch:
        patch.setattr(network, "prepare", preparing)
        patch.setattr(Entry, "write", writing)
        with pytest.raises(CheckFailed, match=message):
            run()
    assert not [path for path in (tmp_path / "features").iterdir() if path.name != ".locks"]
    put(split.paths[11], good)
    read_since(split)
    run()
    assert read_since(split) == list(range(12))


def test_a_live_head_that_is_not_the_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, other = (ProjectionHead({"weight": torch.eye(128, 512), "bias": torch.full((128,), b)}) for b in (0.0, 1.0))
    work = replace(job(tmp_path), backbone=replace(BACKBONE, head=head))
    assert isinstance(work.protocol.settings, KnnSettings)
    frozen = freeze(BACKBONE, work.device, [view_of(work, work.protocol.settings)])
    live = other.module()
    monkeypatch.setattr(ProjectionHead, "module", lambda _: live)
    with pytest.raises(CheckFailed, match="the live projection head is not the backbone's: expected the fingerprint"):
        extract(work, frozen, split_of(tmp_path / "images", 2), work.protocol.settings, (EMBEDDING,))


def cut(folder: Path) -> None:
    path = folder / "values.f32"
    path.write_bytes(path.read_bytes()[:-4])


def flip(folder: Path) -> None:
    data = bytearray((folder / "values.f32").read_bytes())
    data[3 * 512 * 4 + 1] ^= 1
    (folder / "values.f32").write_bytes(data)


def change(*place: str, to: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        header = json.loads((folder / "header.json").read_text())
        node = header
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = to
        (folder / "header.json").write_text(json.dumps(header))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(cut, r"values\.f32: .* expected 14336 bytes, found 14332", id="cut short"),
        pytest.param(flip, r"values\.f32: .* the checksum of images 2 to 3 .* found other bytes", id="a flipped bit"),
        pytest.param(change("images", to=8), "expected features of 7 images, found of 8", id="another N"),
        pytest.param(change("dim", to=511), "expected 14308 bytes, found 14336", id="another D"),
        pytest.param(
            change("identity", "source", to="ef" * 32), "expected the source abab.*, found efef", id="foreign"
        ),
        pytest.param(change("identity", "version", to=2), "expected the header of a feature cache", id="version"),
        pytest.param(change("checksums", to=[]), "a checksum for every chunk, found 0", id="no checksum"),
        pytest.param(
            lambda folder: (folder / "header.json").write_text("[" * 100_000),
            "the header of a feature cache",
            id="deep",
        ),
        pytest.param(lambda folder: (folder / "header.json").unlink(), "No such file", id="no header"),
        pytest.param(lambda folder: (folder / "values.f32").unlink(), "14336 bytes, found 0", id="no values"),
    ],
)
def test_a_damaged_cache_is_told_and_force_cures_it(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    split = split_of(tmp_path / "images")
    first = values(tmp_path, split).copy()
    folder = cache(tmp_path)
    damage(folder)
    with pytest.raises(CheckFailed, match=message) as caught:
        values(tmp_path, split)
    assert str(folder) in str(caught.value)
    assert "or compute it anew with --force" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert np.array_equal(values(tmp_path, split, fresh=True), first)
    assert np.array_equal(values(tmp_path, split), first)


def test_files_that_changed_are_told_and_computed_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bitmaps of one shape all have one size, so the data set's fingerprint sees no change."""
    split = split_of(tmp_path / "images", 2)
    first = values(tmp_path, split).copy()
    bytes_ = split.paths[1].read_bytes()
    split.paths[1].write_bytes(split.paths[0].read_bytes().ljust(len(bytes_), b"\0")[: len(bytes_)])
    assert not np.array_equal(values(tmp_path, split), first)
    assert "train features: files of images changed since; they are computed anew" in capfd.readouterr().err
    read_since(split)
    values(tmp_path, split)
    assert read_since(split, before=0) == []


def test_features_of_another_machine_carry_a_note(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 2)
    assert notes_of(*features(tmp_path, split)) == ()
    change("made", "versions", "torch", to="1.0")(cache(tmp_path))
    change("made", "device", to="cuda")(cache(tmp_path))
    (note,) = notes_of(*features(tmp_path, split, POOLED, POOLED))
    assert note.startswith("train features come from the cache, computed on cuda with torch 1.0, torchvision ")


@pytest.mark.parametrize("place", ["flush", "between the renames"])
def test_an_end_in_the_finish_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    split = split_of(tmp_path / "images")
    first = values(tmp_path, split).copy()
    flush, rename = os.fsync, Path.rename

    def no_flush(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == first.nbytes:
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    def killed(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_flush) if place == "flush" else patch.setattr(Path, "rename", killed)
        with pytest.raises(CheckFailed if place == "flush" else KeyboardInterrupt):
            values(tmp_path, split, fresh=True)
    shutil.rmtree(tmp_path / "features" / next((tmp_path / "features").glob("*.partial")).stem, ignore_errors=True)
    read_since(split)
    assert np.array_equal(values(tmp_path, split), first)
    assert read_since(split) == []
    assert sorted(path.name for path in cache(tmp_path).iterdir()) == ["header.json", "values.f32"]
    assert not list((tmp_path / "features").glob("*.former"))


def test_few_images_make_several_chunks_and_go_on_in_the_size_that_was_begun(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 14)
    good = split.paths[13].read_bytes()
    put(split.paths[13], b"")
    with pytest.raises(UserError, match=r"13\.png"):
        features(tmp_path, split, chunk=None)
    assert json.loads((cache(tmp_path) / "header.json").read_text())["chunk"] == 4
    put(split.paths[13], good)
    read_since(split)
    found = values(tmp_path, split, chunk=3)  # as with more processes
    assert read_since(split) == [12, 13]
    assert np.array_equal(found, values(tmp_path / "whole", split, chunk=4))


def test_a_bad_image_keeps_the_chunks_before_it(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 14)
    good = split.paths[12].read_bytes()
    put(split.paths[12], good[:90])
    with pytest.raises(UserError, match=r"12\.png: expected an image that can be decoded"):
        values(tmp_path, split)
    assert cache(tmp_path).suffix == ".partial"
    read_since(split)
    put(split.paths[12], good)
    found = values(tmp_path, split)
    assert read_since(split) == [12, 13]
    assert np.array_equal(found, values(tmp_path / "whole", split))


def test_a_chunk_that_is_not_as_it_was_noted_is_computed_again(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 12)
    good = split.paths[11].read_bytes()
    put(split.paths[11], b"")
    with pytest.raises(UserError, match=r"11\.png"):
        values(tmp_path, split)
    with (cache(tmp_path) / "values.f32").open("r+b") as file:
        file.seek(9 * 512 * 4)
        file.write(b"\0\0\0\1")
    with (cache(tmp_path) / "0.done").open("a") as file:
        file.write("1 abc")  # a line that a kill cut off
    put(split.paths[11], good)
    read_since(split)
    found = values(tmp_path, split)
    assert read_since(split) == [8, 9, 10, 11]
    assert np.array_equal(found, values(tmp_path / "whole", split))


@pytest.fixture
def little_room() -> Iterator[Callable[[int], None]]:
    """No file may grow beyond a limit, which the system refuses much as it refuses to fill a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_keeps_what_is_done(tmp_path: Path, little_room: Callable[[int], None]) -> None:
    split = split_of(tmp_path / "images", 14)
    little_room(11 * 512 * 4)
    with pytest.raises(CheckFailed, match=r"values\.f32: the file could not be written: File too large"):
        values(tmp_path, split)
    assert cache(tmp_path).suffix == ".partial"
    little_room(1 << 30)
    read_since(split)
    found = values(tmp_path, split)
    assert read_since(split) == [10, 11, 12, 13]
    assert np.array_equal(found, values(tmp_path / "whole", split))


def test_too_little_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(tmp_path / "images", 3)
    usage = type("Usage", (), {"free": 5000})
    monkeypatch.setattr("evaluators.features.extract.shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        CheckFailed, match=r"room for 0\.006144 MB .* found 0\.005 MB free; make room, or give another folder with -o"
    ):
        values(tmp_path, split)
    assert read_since(split) == []


def test_who_comes_second_waits_and_reads_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    split = split_of(tmp_path / "images", 12, delay=0.02)
    found: list[NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: found.append(values(tmp_path, split))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(*found)
    assert sorted(read_since(split)) == list(range(12))
    assert "waiting for another process that computes the same features (train)" in capfd.readouterr().err


def test_after_a_kill_the_next_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images", 24)
    code = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path;"
        "from tests.evaluators.features.test_cache import split_of, values;"
        "folder = Path(sys.argv[1]); values(folder, split_of(folder / 'images', 24, delay=0.1))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any((tmp_path / "features").glob("*.partial/0.done")):
        assert child.poll() is None, "the child ended"
        assert time.monotonic() < deadline, "the child made no chunk"
        time.sleep(0.05)
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert cache(tmp_path).suffix == ".partial"
    read_since(split)
    found = values(tmp_path, split)
    again = read_since(split)
    assert again == list(range(24 - len(again), 24))
    assert 0 < len(again) < 24
    assert np.array_equal(found, values(tmp_path / "whole", split))


def in_a_group(rank: int, folder: Path) -> None:
    split = split_of(folder / "images")
    found = values(folder, split)
    assert found.flags.writeable is False
    np.save(folder / f"rank{rank}.npy", found)
    # An image that one rank cannot decode reaches all; what was done is kept.
    broken = split_of(folder / "broken", 12)
    with pytest.raises(UserError, match=r"10\.png: expected an image that can be decoded"):
        values(folder / "second", broken)
    # A damaged cache is told to all.
    distributed.together(lambda: cut(cache(folder)) if rank == 0 else None)
    with pytest.raises(CheckFailed, match="expected 14336 bytes, found 14332"):
        values(folder, split)


def test_processes_share_the_images(tmp_path: Path) -> None:
    split = split_of(tmp_path / "images")
    broken = split_of(tmp_path / "broken", 12)
    good = broken.paths[10].read_bytes()
    put(broken.paths[10], good[:90])
    run_ranks(in_a_group, 2, tmp_path)
    read = read_since(split, before=0)
    assert sorted(read) == sorted([*range(7)] * 3)  # each rank's check of the network, and once for the features
    alone = values(tmp_path / "alone", split)
    for rank in range(2):
        assert np.array_equal(np.load(tmp_path / f"rank{rank}.npy"), alone)
    put(broken.paths[10], good)
    read_since(broken)
    found = values(tmp_path / "second", broken)
    assert read_since(broken) == [10, 11]
    assert np.array_equal(found, values(tmp_path / "second" / "alone", broken))
