"""Tar shards: which there are, how they are read, and how they are split over processes and loading processes."""

from __future__ import annotations

import importlib.util
import io
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import braceexpand
import fsspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from converters.distributed import HereOnly, World
from converters.errors import MissingPackage, UserError
from pretrain.input.batches import Batch, Item, Share, Views
from pretrain.input.images import ImageFolder, open_source
from pretrain.input.loading import Fault, Loader
from pretrain.input.shard_feed import ShardFeed
from pretrain.input.shard_places import expand
from pretrain.input.shards import Shards
from pretrain.input.tar_samples import CutOff, Sample, TooLarge, samples
from pretrain.recipes import QUICKSTART_MOCO_V2, Recipe
from tests.pretrain.made_shards import as_webdataset_reads, jpeg, make_shards, write_index


class Pixels:
    """A view maker that shows which image it was given: its mean, and what its draws would come from."""

    def __call__(self, image: Image.Image, epoch: int, number: int) -> tuple[Tensor, ...]:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        return pixels.double().mean(), torch.tensor([epoch, number])


def recipe(batch_size: int, workers: int = 0, epoch_images: int | None = None) -> Recipe:
    changes = (f"batch_size={batch_size}", f"workers={workers}")
    return QUICKSTART_MOCO_V2.overridden(changes + ((f"epoch_images={epoch_images}",) if epoch_images else ()))


def loader(source: Shards, chosen: Recipe, rank: int = 0, world: int = 1, seed: int = 0) -> Loader:
    return Loader(source, chosen, World(rank, world, world, torch.device("cpu")), Pixels(), seed=seed)


def opened(data: str | Path) -> Shards:
    source = open_source(data)
    assert isinstance(source, Shards)
    return source


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.number, other.number) and all(map(torch.equal, one.views, other.views))


def numbers(batches: Iterator[Batch]) -> list[int]:
    return [number for batch in batches for number in batch.number.tolist()]


# Which shards there are


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "three", [[jpeg(10 * shard + n) for n in range(4)] for shard in range(3)])


def test_a_folder_a_pattern_and_a_list_name_the_same_shards(three: Path) -> None:
    whole = opened(three)
    assert [shard.name for shard in whole.shards] == ["x-000.tar", "x-001.tar", "x-002.tar"]
    assert whole.count is None
    assert not whole.sample
    listed = three.parent / "list.txt"
    listed.write_text("# mine\nthree/x-002.tar\n\nthree/x-000.tar\nthree/x-001.tar\n")
    for data in (f"{three}/x-{{000..002}}.tar", f"{three}/*.tar", f"{three}/x-{{000,001,002}}.tar", str(listed)):
        found = opened(data)
        assert (found.shards, found.fingerprint) == (whole.shards, whole.fingerprint), data
    assert len(opened(three / "x-001.tar").shards) == 1
    assert opened(f"{three}/x-00[01].tar").fingerprint != whole.fingerprint


def test_names_and_fingerprint_do_not_depend_on_where_the_shards_lie(three: Path) -> None:
    content = [[jpeg(10 * shard + n) for n in range(4)] for shard in range(3)]
    elsewhere = opened(make_shards(three.parent / "data[1]" / "else", content))
    here = opened(three)
    assert [shard.name for shard in elsewhere.shards] == [shard.name for shard in here.shards]
    assert elsewhere.fingerprint == here.fingerprint
    with (three / "x-001.tar").open("ab") as file:
        file.write(bytes(512))
    assert opened(three).fingerprint != here.fingerprint


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text("ab-/", max_size=3),
            st.builds(lambda a, b: f"{{{min(a, b):03d}..{max(a, b):03d}}}", st.integers(0, 20), st.integers(0, 20)),
            st.builds(lambda a, b: f"{{{min(a, b)}..{max(a, b)}}}", st.integers(0, 12), st.integers(0, 12)),
            st.lists(st.text("xy", min_size=1, max_size=2), min_size=2, max_size=3).map(lambda o: f"{{{','.join(o)}}}"),
        ),
        min_size=1,
        max_size=3,
    ).map("".join)
)
def test_braces_expand_as_a_shell_does(pattern: str) -> None:
    assert list(expand(pattern)) == list(braceexpand.braceexpand(pattern, escape=False))


def test_archives_beside_class_folders_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "a.jpg").write_bytes(jpeg(0))
    with tarfile.open(tmp_path / "n01.tar", "w") as tar:
        tar.add(tmp_path / "n01" / "a.jpg", "a.jpg")
    assert isinstance(open_source(tmp_path), ImageFolder)
    assert isinstance(open_source(f"{tmp_path}/*.tar"), Shards)


def test_an_index_says_how_many_images_there_are(three: Path) -> None:
    before = opened(three)
    write_index(three, [4, 4, 4], sample=True)
    found = opened(three)
    assert (found.count, found.sample) == (12, True)
    assert found.fingerprint != before.fingerprint
    assert opened(f"{three}/x-{{000..001}}.tar").count == 8
    assert loader(found, recipe(4)).steps == 3


def test_folders_that_were_packed_apart_are_used_together(tmp_path: Path) -> None:
    for part, counts in (("a", [3, 2]), ("b", [4])):
        make_shards(tmp_path / f"part-{part}", [[jpeg(n) for n in range(count)] for count in counts], indexed=True)
    found = opened(f"{tmp_path}/part-{{a,b}}/*.tar")
    assert [(shard.name, shard.images) for shard in found.shards] == [
        ("part-a/x-000.tar", 3),
        ("part-a/x-001.tar", 2),
        ("part-b/x-000.tar", 4),
    ]
    # Equal names in different folders are different images.
    assert len(set(numbers(loader(found, recipe(3)).epoch(0)))) == 9
    (tmp_path / "part-b" / "shards.json").unlink()
    fewer = opened(f"{tmp_path}/part-*/*.tar")
    assert fewer.count is None
    assert fewer.fingerprint != found.fingerprint


def refusal(data: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_shard_is_one_line(three: Path, tmp_path: Path) -> None:
    assert f"{three}/x-003.tar: expected tar shards (.tar), found nothing" in refusal(f"{three}/x-{{003..004}}.tar")
    assert "expected tar shards (.tar), found none" in refusal(f"{three}/y-*.tar")
    assert "x.tar: expected tar shards (.tar), found nothing" in refusal(tmp_path / "x.tar")
    assert "expected braces that count up" in refusal(f"{three}/x-{{003}}.tar")
    assert "expected each shard once" in refusal(f"{three}/x-00{{0,0}}.tar")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{three}/x-000.tar\n\n{three}/a.jpg\n")
    assert "list.txt, line 3: expected a tar shard, as in the lines above" in refusal(listed)
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    listed.write_text(f"a.jpg\n{three}/x-000.tar\n")
    assert "list.txt, line 2: expected an image file, as in the lines above" in refusal(listed)


def test_folders_of_folders_of_shards_are_named_by_a_pattern(tmp_path: Path) -> None:
    for part in ("a", "b"):
        make_shards(tmp_path / "all" / "parts" / part, [[jpeg(0)]])
    said = refusal(tmp_path / "all")
    assert "found tar shards, as parts/a/x-000.tar; name them by a pattern: --data" in said
    assert len(opened(said.rpartition("--data ")[2].strip("'")).shards) == 2
    (tmp_path / "mixed" / "notes").mkdir(parents=True)
    (tmp_path / "mixed" / "y.tar").write_bytes((tmp_path / "all" / "parts" / "a" / "x-000.tar").read_bytes())
    assert refusal(tmp_path / "mixed").endswith(f"--data '{tmp_path}/mixed/*.tar'")


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".TAR.GZ", ".tar.zst"])
def test_compressed_shards_are_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "shards" / f"a{ending}"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz"):
        pass
    listed = tmp_path / "list.txt"
    listed.write_text(f"shards/a{ending}\n")
    for data in (path, path.parent, f"file://{path}", f"{path.parent}/*", f"{path.parent}/*{ending}", listed):
        assert "expected tar shards (.tar), which are not compressed, found compressed ones" in refusal(data), data
    assert "found nothing" in refusal(tmp_path / f"b{ending}")


def test_a_pattern_of_images_is_one_line(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg(0))
    for pattern in ("*.jpg", "{a,b}.jpg", "[ab].*"):
        said = refusal(f"{tmp_path}/{pattern}")
        assert "expected tar shards (.tar), found images; name the folder that holds the images" in said
    assert "write their paths into a list" in said


@pytest.mark.parametrize(
    "odd", ["", "a\0b", "a\0*.tar", "x" * 5000, "x/" * 2500, f"{'x' * 5000}*.tar", "x" * 5000 + ".tar"]
)
def test_what_can_be_no_path_is_one_line(odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_shards(tmp_path / "here", [[jpeg(0)]]))
    assert "expected" in refusal(odd)


def test_a_pattern_may_be_longer_than_a_path(three: Path) -> None:
    longer = "{" + ",".join(f"{three}/{'./' * 1000}x-{number:03d}" for number in range(3)) + "}.tar"
    assert len(longer) > 5000
    assert len(opened(longer).shards) == 3


def test_an_index_that_does_not_fit_is_one_line(three: Path) -> None:
    write_index(three, [4, 4, 4])
    (three / "x-001.tar").rename(three / "y.tar")
    assert "shards.json: expected shards that the index names, found y.tar" in refusal(three)
    (three / "y.tar").unlink()
    assert "expected all 3 shards of the index, found 1 missing, first x-001.tar" in refusal(three)
    (three / "shards.json").write_text('{"schema": 2}')
    assert "shards.json: expected a valid 'schema'" in refusal(three)
    (three / "shards.json").write_text("{")
    assert "expected an index of shards, found no JSON" in refusal(three)


def test_a_shard_of_another_size_than_its_index_says_is_one_line(three: Path) -> None:
    write_index(three, [4, 4, 4])
    path = three / "x-001.tar"
    size = path.stat().st_size
    for found in (1000, 0, size + 512):
        os.truncate(path, found)
        for data in (three, f"{three}/*.tar", f"{three}/x-{{000..002}}.tar"):
            expected = f"{path}: expected {size} bytes, as shards.json says, found {found}; copy it again"
            assert expected in refusal(data)
    assert opened(three / "x-002.tar").count == 4


def test_without_a_count_an_epoch_must_be_declared(three: Path) -> None:
    with pytest.raises(
        UserError, match=r"whose number of images is known, found no shards.json .*--set epoch_images=N"
    ):
        loader(opened(three), recipe(4))
    assert loader(opened(three), recipe(4, epoch_images=12)).steps == 3


# Other file systems


@pytest.fixture
def remote(three: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for path in three.iterdir():
        system.pipe(f"/bucket/three/{path.name}", path.read_bytes())
    system.pipe("/bucket/list.txt", b"# shards\nthree/x-000.tar\nmemory://bucket/three/x-001.tar\nthree/x-002.tar\n")
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_behind_a_url_are_read_as_local_ones(three: Path, remote: str, workers: int) -> None:
    local = opened(three)
    expected = list(loader(local, recipe(2, workers, 12)).epoch(0))
    for data in ("three", "three/*.tar", "three/x-{000..002}.tar", "list.txt"):
        found = opened(f"{remote}/{data}")
        assert found.fingerprint == local.fingerprint, data
        assert all(same(*pair) for pair in zip(expected, loader(found, recipe(2, workers, 12)).epoch(0), strict=True))


def test_a_url_may_go_through_a_cache(three: Path, remote: str) -> None:
    found = opened(f"simplecache::{remote}/three/x-00[0-2].tar")
    assert all(shard.url.startswith("simplecache::memory://") for shard in found.shards)
    expected = numbers(loader(opened(three), recipe(4, 0, 12)).epoch(0))
    assert numbers(loader(found, recipe(4, 0, 12)).epoch(0)) == expected


def test_a_cache_may_lie_before_local_shards(three: Path) -> None:
    write_index(three, [4, 4, 4])
    local = opened(three)
    for data in (f"file://{three}", str(three), f"{three}/*.tar", f"file://{three}/x-{{000..002}}.tar"):
        found = opened(f"simplecache::{data}")
        assert (found.count, found.fingerprint) == (12, local.fingerprint), data
        assert all(shard.url.startswith(f"simplecache::file://{three}/") for shard in found.shards), data
        batches = list(loader(found, recipe(4)).epoch(0))
        assert not any(batch.faults for batch in batches)
        assert numbers(iter(batches)) == numbers(loader(local, recipe(4)).epoch(0))


def test_urls_that_lead_nowhere_are_one_line(remote: str) -> None:
    assert "expected tar shards (.tar), found nothing" in refusal(f"{remote}/four/x.tar")
    assert "found none" in refusal(f"{remote}/three/y-*.tar")
    assert "nothing" in refusal(f"{remote}/nowhere")
    assert "expected a URL whose protocol fsspec knows, found 'memoyr'" in refusal("memoyr://bucket/x.tar")
    assert "did you mean 'memory'?" in refusal("memoyr://bucket/x.tar")


def test_a_protocol_whose_driver_is_absent_names_the_package() -> None:
    assert importlib.util.find_spec("dropboxdrivefs") is None, "choose another driver that nobody has"
    with pytest.raises(MissingPackage, match=r"expected the package dropboxdrivefs for dropbox:// URLs, .*pip install"):
        open_source("dropbox://shards/x-{000..002}.tar")


# Reading


def test_a_sample_is_what_webdataset_says_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mixed.tar"
    with tarfile.open(path, "w") as tar:
        for name in (
            "__meta__/about.jpg",
            "a/one.json",
            "a/one.seg.png",
            "a/one.JPG",
            "a/one.png",
            "b.c/two.txt",
            "three.mask.webp",
            ".hidden.jpg",
            "./four.cls",
            "./four.jpeg",
        ):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    found = list(samples(str(path)))
    assert found == [
        Sample("a/one", "a/one.JPG", b"a/one.JPG"),
        Sample("three", "three.mask.webp", b"three.mask.webp"),
        Sample("./four", "./four.jpeg", b"./four.jpeg"),
    ]
    with path.open("rb") as stream:
        grouped = [sample["__key__"] for sample in as_webdataset_reads(stream, str(path))]
    assert grouped == ["a/one", "b.c/two", "three", "./four"]


def test_what_webdataset_writes_is_read(three: Path) -> None:
    found = list(samples(str(three / "x-001.tar")))
    assert found == [Sample(f"{n:04d}", f"{n:04d}.jpg", jpeg(10 + n)) for n in range(4)]
    assert list(samples(str(three / "x-001.tar"), 1, 3)) == found[1:3]
    assert list(samples(str(three / "x-001.tar"), 3)) == found[3:]


def test_a_shard_cut_anywhere_is_told_and_what_was_whole_is_read(three: Path) -> None:
    path = three / "x-000.tar"
    content, whole = path.read_bytes(), list(samples(str(path)))
    end = len(content.rstrip(b"\0"))
    end += -end % 512
    for cut in range(0, end + 1, 128):
        path.write_bytes(content[:cut])
        got: list[Sample | TooLarge] = []
        with pytest.raises((CutOff, tarfile.ReadError)):
            got.extend(samples(str(path)))
        assert got == whole[: len(got)]
    path.write_bytes(content[: end + 1024])
    assert list(samples(str(path))) == whole


def test_a_torn_header_in_the_middle_is_told(three: Path) -> None:
    path = three / "x-000.tar"
    content = bytearray(path.read_bytes())
    content[512 * 6 : 512 * 6 + 8] = b"\xff" * 8
    with tarfile.open(path) as tar:
        offsets = [member.offset for member in tar]
    content = bytearray(path.read_bytes())
    content[offsets[5] + 148 : offsets[5] + 156] = b"xxxxxxxx"  # its checksum
    path.write_bytes(content)
    faults = [fault for batch in loader(opened(three), recipe(3, 0, 9)).epoch(0) for fault in batch.faults]
    assert {fault.where for fault in faults} == {str(path)}
    assert "a header is damaged" in faults[0].reason


# Splitting


def tiny(folder: Path, counts: Sequence[int]) -> Shards:
    """Shards whose images are one byte each: they are not decoded here."""
    return opened(make_shards(folder, [[b"x"] * count for count in counts]))


def feed(source: Shards, share: Share, buffer: int = 3) -> ShardFeed:
    return ShardFeed(source, share, Views(Pixels()), 5, buffer)


def everything(counts: Sequence[int]) -> list[tuple[str, str]]:
    return [(f"x-{shard:03d}.tar", f"{number:04d}") for shard, count in enumerate(counts) for number in range(count)]


def shown(item: Item) -> tuple[str, str]:
    url, _, member = item.where.rpartition("/")
    return url.rpartition("/")[2], member.removesuffix(".jpg")


splits = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=7).filter(any), st.integers(1, 3), st.integers(1, 3)
)


@settings(deadline=None, max_examples=60)
@given(splits, st.integers(1, 3), st.integers(0, 3), st.data())
def test_counted_shards_are_split_without_loss_or_double(
    split: tuple[list[int], int, int], share: int, epoch: int, data: st.DataObject
) -> None:
    counts, world, lanes = split
    total = sum(counts)
    images = data.draw(st.just(total) | st.integers(1, 3 * total))
    with tempfile.TemporaryDirectory() as name:
        make_shards(Path(name), [[b"x"] * count for count in counts], indexed=True)
        source = opened(name)
        met: list[tuple[int, tuple[str, str]]] = []
        for rank in range(world):
            one = feed(source, Share(images, share * world, rank, world))
            for lane in range(lanes):
                need = share * len(range(lane, one.steps, lanes))
                items = list(islice(one.items(epoch, lane, lanes), need)) if need else []
                assert all(isinstance(item, Item) for item in items)
                met += [(item.turn, shown(item)) for item in items if isinstance(item, Item)]
        steps = images // (share * world)
        assert len(met) == len(set(met)) == steps * share * world
        assert {image for _, image in met} <= set(everything(counts))
        if images == total == len(met):
            assert sorted(image for _, image in met) == everything(counts)
        if images <= total and epoch == 0:
            assert {turn for turn, _ in met} <= {0}


@settings(deadline=None, max_examples=60)
@given(splits, st.integers(0, 3))
def test_a_pass_over_uncounted_shards_shows_each_image_once(split: tuple[list[int], int, int], epoch: int) -> None:
    counts, world, lanes = split
    counts = [max(count, 1) for count in counts] + [2] * (world * lanes - len(counts))  # something for each lane
    with tempfile.TemporaryDirectory() as name:
        source = tiny(Path(name), counts)
        passes: list[Counter[tuple[str, str]]] = [Counter(), Counter(), Counter()]
        for rank in range(world):
            one = feed(source, Share(10_000, world, rank, world))
            for lane in range(lanes):
                for item in one.items(epoch, lane, lanes):
                    assert isinstance(item, Item)
                    if item.turn == 3:
                        break
                    passes[item.turn][shown(item)] += 1
        assert [dict(found) for found in passes] == [dict.fromkeys(everything(counts), 1)] * 3


def test_shares_that_divide_show_uncounted_shards_once_an_epoch(tmp_path: Path) -> None:
    source = tiny(tmp_path, [6] * 8)
    found = []
    for rank in range(2):
        one = feed(source, Share(48, 6, rank, 2))
        for lane in range(2):
            need = 3 * len(range(lane, one.steps, 2))
            found += [shown(item) for item in islice(one.items(1, lane, 2), need) if isinstance(item, Item)]
    assert sorted(found) == everything([6] * 8)


def test_short_epochs_of_counted_shards_go_on_where_the_one_before_ended(tmp_path: Path) -> None:
    make_shards(tmp_path, [[b"x"] * count for count in (5, 3, 4)], indexed=True)
    one = feed(opened(tmp_path), Share(4, 4, 0, 1))
    found = [shown(item) for e in range(3) for item in islice(one.items(e, 0, 1), 4) if isinstance(item, Item)]
    assert sorted(found) == everything([5, 3, 4])


def test_fewer_uncounted_shards_than_processes_are_refused_and_than_workers_use_fewer(three: Path) -> None:
    with pytest.raises(UserError, match=r"expected at least 4 shards, one a process, found 3; start fewer processes"):
        loader(opened(three), recipe(4, 0, 12), rank=1, world=4)
    one = loader(opened(three / "x-000.tar"), recipe(2, 2, 4))
    assert one.layout == {"processes": 1, "lanes": 1, "buffer": 1000}
    assert len(set(numbers(one.epoch(0)))) == 4


def test_the_number_of_an_image_is_its_names_and_its_draws_too(three: Path) -> None:
    whole = numbers(loader(opened(three), recipe(2, 0, 12)).epoch(0))
    assert len(set(whole)) == 12
    assert all(0 <= number < 2**63 for number in whole)
    split = [n for rank in range(3) for n in numbers(loader(opened(three), recipe(3, 0, 12), rank, 3).epoch(1))]
    assert sorted(split) == sorted(whole)
    for batch in loader(opened(three), recipe(2, 0, 12)).epoch(0):
        assert batch.views[1].tolist() == [[0, number] for number in batch.number.tolist()]


def test_a_second_showing_in_an_epoch_has_draws_of_its_own(three: Path) -> None:
    for indexed in (False, True):
        if indexed:
            write_index(three, [4, 4, 4])
        batches = list(loader(opened(three), recipe(6, 0, 36)).epoch(0))
        assert set(Counter(numbers(iter(batches))).values()) == {3}
        assert len({tuple(draw) for batch in batches for draw in batch.views[1].tolist()}) == 36


def test_the_buffer_mixes_the_images_of_shards(tmp_path: Path) -> None:
    make_shards(tmp_path, [[b"x"] * 50, [b"x"] * 50], indexed=True)

    def order(buffer: int, epoch: int) -> list[tuple[str, str]]:
        items = feed(opened(tmp_path), Share(100, 100, 0, 1), buffer).items(epoch, 0, 1)
        return [shown(item) for item in islice(items, 100) if isinstance(item, Item)]

    assert order(20, 0) == order(20, 0) != order(20, 2)
    assert sorted(order(20, 0)) == sorted(order(1000, 0)) == everything([50, 50])
    assert order(20, 0) not in (everything([50, 50]), everything([50, 50])[50:] + everything([50, 50])[:50])


# From the middle of an epoch on, and damage


def damaged(folder: Path, *, indexed: bool) -> tuple[Shards, set[str]]:
    """Four shards: damaged images at the beginning, in the middle, at the end, and one shard that is cut off."""
    contents = [[jpeg(10 * shard + n) for n in range(6)] for shard in range(4)]
    wheres = set()
    for shard, number, data in (
        (0, 0, b"none"),
        (1, 3, contents[1][3][:300]),
        (1, 5, b""),
        (2, 1, contents[2][1][:-80]),
    ):
        contents[shard][number] = data
        wheres.add(f"{folder}/x-{shard:03d}.tar/{number:04d}.jpg")
    make_shards(folder, contents)
    cut = folder / "x-003.tar"
    with tarfile.open(cut) as tar:
        middle = tar.getmember("0004.jpg").offset_data + 100
    cut.write_bytes(cut.read_bytes()[:middle])
    if indexed:
        write_index(folder, [6, 6, 6, 6])
    return opened(folder), wheres | {str(cut)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("indexed", [False, True])
def test_an_epoch_with_damage_can_be_taken_up_in_its_middle(tmp_path: Path, workers: int, indexed: bool) -> None:
    source, wheres = damaged(tmp_path / "shards", indexed=indexed)
    chosen = recipe(3, workers, 24)
    for epoch in (0, 1):
        one = loader(source, chosen)
        whole = list(one.epoch(epoch))
        assert [len(batch.number) for batch in whole] == [3] * 8
        faults = [fault for batch in whole for fault in batch.faults]
        assert {fault.where for fault in faults} == wheres
        assert all(isinstance(fault, Fault) and fault.reason for fault in faults)
        cut = [fault for fault in faults if fault.where.endswith(".tar")]
        assert len(cut) <= max(1, workers)  # one a loading process
        for start in (5, 1, 8, 2, 3, 4, 6, 7):  # also one after the other with the same workers
            rest = list(one.epoch(epoch, start))
            assert [same(*pair) for pair in zip(whole[start:], rest, strict=True)] == [True] * (8 - start)
            assert [batch.faults for batch in rest] == [batch.faults for batch in whole[start:]]
    assert one.layout == {"processes": 1, "lanes": max(1, workers), "buffer": 1000}


def test_each_damaged_image_is_told_once_and_all_others_are_shown(tmp_path: Path) -> None:
    contents = [[jpeg(10 * shard + n) for n in range(6)] for shard in range(4)]
    contents[2][4] = contents[2][4][:200]
    healthy = make_shards(tmp_path / "shards", contents, indexed=True)
    batches = list(loader(opened(healthy), recipe(4)).epoch(0))
    faults = [fault for batch in batches for fault in batch.faults]
    assert [fault.where for fault in faults] == [f"{healthy}/x-002.tar/0004.jpg"]
    assert "truncated" in faults[0].reason.lower()
    count = Counter(numbers(iter(batches)))
    assert len(count) == 23
    assert count.total() == 24
    # The stand-in is due in another batch: none holds an image twice.
    assert all(len(set(batch.number.tolist())) == 4 for batch in batches[:-1])


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_without_anything_to_read_end_the_epoch(tmp_path: Path, workers: int) -> None:
    for name, content, reason in (
        ("bad", [[b"no image"] * 150], "found 100 in a row that cannot"),
        ("few", [[b"no image"] * 3], "found 100 in a row that cannot"),
        ("none", [[], []], "expected tar shards with images, as KEY.jpg, found none in a whole pass"),
    ):
        source = opened(make_shards(tmp_path / name, content))
        with pytest.raises(HereOnly, match=reason):
            list(loader(source, recipe(2, workers, 10)).epoch(0))
    lost = opened(make_shards(tmp_path / "lost", [[jpeg(0)] * 3, [jpeg(1)] * 3]))
    for path in (tmp_path / "lost").iterdir():
        path.unlink()
    with pytest.raises(HereOnly, match=r"x-00\d.tar: expected images that can be read, .*No such file"):
        list(loader(lost, recipe(2, workers, 6)).epoch(0))


def test_an_index_that_promises_too_much_is_told(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", [[jpeg(n) for n in range(4)], [jpeg(n + 10) for n in range(4)]])
    write_index(folder, [4, 6])
    batches = list(loader(opened(folder), recipe(5)).epoch(0))
    assert [fault for batch in batches for fault in batch.faults] == [
        Fault(f"{folder}/x-001.tar", "holds 4 images, and 6 as shards.json says")
    ]
    assert len(numbers(iter(batches))) == 10


def test_an_index_that_promises_too_little_is_told(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", [[jpeg(n) for n in range(6)], [jpeg(n + 10) for n in range(4)]])
    write_index(folder, [4, 4])
    batches = list(loader(opened(folder), recipe(4)).epoch(0))
    assert [fault for batch in batches for fault in batch.faults] == [
        Fault(f"{folder}/x-000.tar", "holds more than 4 images, which shards.json says it has")
    ]
    assert len(set(numbers(iter(batches)))) == 8


def test_why_an_image_is_damaged_is_the_same_each_time(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", [[jpeg(n) for n in range(4)] + [b"none"]], indexed=True)
    for _ in range(2):
        batches = list(loader(opened(folder), recipe(5)).epoch(0))
        assert [fault for batch in batches for fault in batch.faults] == [
            Fault(f"{folder}/x-000.tar/0004.jpg", "no image that Pillow knows")
        ]
