"""Batches: the order of an epoch, its middle, several processes, and damaged images."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from converters.distributed import HereOnly, World
from converters.errors import UserError
from pretrain.input.augment import view_maker
from pretrain.input.images import ImageFiles, ImageFolder
from pretrain.input.loading import Batch, FileFeed, Loader, Share, Views
from pretrain.recipes import QUICKSTART_MOCO_V1, QUICKSTART_MOCO_V2, Recipe
from tests.pretrain.made_images import make_images


def in_process(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, size, torch.device("cpu"))


def recipe(batch_size: int, workers: int = 0, *changes: str) -> Recipe:
    return QUICKSTART_MOCO_V2.overridden((f"batch_size={batch_size}", f"workers={workers}", *changes))


def loader(source: ImageFiles, chosen: Recipe, world: World | None = None, seed: int = 0) -> Loader:
    return Loader(source, chosen, world or in_process(), view_maker(chosen, seed), seed=seed)


def numbers(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch.number.tolist() for batch in batches]


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.number, other.number) and all(map(torch.equal, one.views, other.views))


class Shown:
    """Stands for a view maker where nothing is read: a number instead of an image."""

    def __call__(self, image: Image.Image, epoch: int, number: int) -> tuple[Tensor, ...]:  # noqa: ARG002 - as it must be
        return (torch.tensor([epoch, number]),)


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder.open(make_images(tmp_path_factory.mktemp("ten"), 10))


class Positions(FileFeed):
    """A feed that tells which items it would load, without files."""

    def __init__(self, images: int, share: Share, seed: int) -> None:
        source = ImageFiles(Path(), tuple(Path(str(number)) for number in range(images)), "", sample=False)
        super().__init__(source, share, Views(Shown()), seed)

    def epoch(self, epoch: int, start: int = 0) -> list[list[tuple[int, int]]]:
        found = []
        turns = epoch * self.share.images // len(self.paths)
        for batch in range(start, self.steps):
            first = epoch * self.share.images + batch * self.share.batch_size + self.share.rank * self.share.size
            items = [next(self._candidates(first + slot, turns)) for slot in range(self.share.size)]
            found.append([(item.number, item.turn) for item in items])
        return found


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**40), st.data())
def test_each_pass_shows_each_image_at_most_once(
    images: int, share: int, world: int, epoch: int, seed: int, data: st.DataObject
) -> None:
    batch_size = share * world
    epoch_images = data.draw(st.just(images) | st.integers(batch_size, max(300, batch_size)))

    def batches(rank: int, of: int) -> list[list[tuple[int, int]]]:
        return Positions(images, Share(epoch_images, batch_size, rank, of), seed).epoch(epoch)

    whole = batches(0, 1)
    assert len(whole) == epoch_images // batch_size
    # The global batches are the same however many processes share them.
    parts = [batches(rank, world) for rank in range(world)]
    assert [list(chain(*shares)) for shares in zip(*parts, strict=True)] == whole
    shown = [item for batch in whole for item in batch]
    assert len(shown) == len(set(shown)) == epoch_images // batch_size * batch_size
    assert {number for number, _ in shown} <= set(range(images))
    if epoch_images == images:
        assert {turn for _, turn in shown} <= {0}


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(0, 100))
def test_the_stand_ins_are_all_other_images_once(images: int, position: int) -> None:
    feed = Positions(images, Share(images, 1, 0, 1), 0)
    found = [item.number for item in feed._candidates(position, 0)]
    assert sorted(found) == list(range(images))


def test_epochs_shorter_than_a_pass_go_on_where_the_one_before_ended() -> None:
    feed = Positions(12, Share(4, 2, 0, 1), 3)
    first_pass = [number for epoch in range(3) for batch in feed.epoch(epoch) for number, _ in batch]
    assert sorted(first_pass) == list(range(12))


def test_each_epoch_and_seed_has_its_own_order(ten: ImageFolder) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        chosen = recipe(5)
        return numbers(Loader(ten, chosen, in_process(), Shown(), seed=seed).epoch(epoch))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(chain(*order(0, 1))) == list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_taken_up_in_its_middle(ten: ImageFolder, workers: int) -> None:
    chosen = recipe(2, workers)
    one = loader(ten, chosen)
    assert (one.images, one.steps) == (10, 5)
    whole = list(one.epoch(1))
    assert [batch.views[0].shape for batch in whole] == [(2, 3, 32, 32)] * 5
    assert not any(batch.faults for batch in whole)
    other = loader(ten, chosen)
    for start in (3, 0, 4, 5):  # also one after the other with the same workers
        assert [same(*pair) for pair in zip(whole[start:], other.epoch(1, start), strict=True)] == [True] * (5 - start)


def test_an_epoch_that_was_broken_off_leaves_nothing_behind(ten: ImageFolder) -> None:
    one = loader(ten, recipe(2, 2))
    expected = numbers(loader(ten, recipe(2)).epoch(1))
    for _ in one.epoch(0):
        break
    assert numbers(one.epoch(1)) == expected


def test_neither_workers_nor_processes_change_a_batch(ten: ImageFolder) -> None:
    whole = list(loader(ten, recipe(4)).epoch(0))
    with_workers = loader(ten, recipe(4, 2)).epoch(0)
    assert all(same(*pair) for pair in zip(whole, with_workers, strict=True))
    ranks = [loader(ten, recipe(4), in_process(rank, 2)).epoch(0) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.number, torch.cat([part.number for part in parts]))
        for views, *of_parts in zip(batch.views, *(part.views for part in parts), strict=True):
            assert torch.equal(views, torch.cat(of_parts))


def test_a_view_is_what_the_maker_gives_for_image_epoch_and_number(ten: ImageFolder) -> None:
    maker = view_maker(recipe(5), 7)
    for batch in loader(ten, recipe(5), seed=7).epoch(2):
        for row, number in enumerate(batch.number.tolist()):
            with Image.open(ten.paths[number]) as image:
                expected = maker(image, 2, number)
            assert all(torch.equal(views[row], view) for views, view in zip(batch.views, expected, strict=True))


def test_a_second_showing_in_an_epoch_has_draws_of_its_own(ten: ImageFolder) -> None:
    chosen = recipe(10, 0, "epoch_images=30")
    shown = list(Loader(ten, chosen, in_process(), Shown(), seed=0).epoch(0))
    assert [sorted(batch.number.tolist()) for batch in shown] == [list(range(10))] * 3
    draws = [tuple(draw) for batch in shown for draw in batch.views[0].tolist()]
    assert len(set(draws)) == 30
    assert all(draw >= 0 for _, draw in draws)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_moved(ten: ImageFolder, workers: int) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global one is what must stay
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - likewise
    list(loader(ten, recipe(5, workers)).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002 - likewise


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(content[: len(content) * 2 // 3])
        case "text":
            path.write_text("not an image")
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()


@pytest.fixture
def twelve(tmp_path: Path) -> ImageFolder:
    """Six JPEGs and six PNGs."""
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{number:02d}.{'jpg' if number % 2 else 'png'}")
    return ImageFolder.open(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_told_and_others_stand_in(twelve: ImageFolder, workers: int) -> None:
    healthy = numbers(loader(twelve, recipe(4)).epoch(0))
    victims = {0: "cut", 3: "cut", 5: "text", 8: "empty", 11: "gone"}
    for number, how in victims.items():
        damage(twelve.paths[number], how)
    found = list(loader(twelve, recipe(4, workers)).epoch(0))
    shown = numbers(iter(found))
    assert all(fault.reason for batch in found for fault in batch.faults)
    for batch, expected in zip(found, healthy, strict=True):
        due_here = {str(twelve.paths[number]) for number in expected if number in victims}
        assert {fault.where for fault in batch.faults} == due_here
        assert len(batch.faults) == len(due_here)
        for got, due in zip(batch.number.tolist(), expected, strict=True):
            assert got == due if due not in victims else got not in victims
    # The same for other workers and ranks, and from the middle of the epoch on.
    assert numbers(loader(twelve, recipe(4, 1)).epoch(0, 1)) == shown[1:]
    ranks = [numbers(loader(twelve, recipe(4), in_process(rank, 2)).epoch(0)) for rank in range(2)]
    assert [one + two for one, two in zip(*ranks, strict=True)] == shown


def test_a_damage_that_pillow_answers_with_a_type_error_is_told(twelve: ImageFolder) -> None:
    path = twelve.root / "tags.tif"
    Image.new("RGB", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[72] = 2  # the number of the strip's rows is given as text
    path.write_bytes(content)
    with pytest.raises(TypeError), Image.open(path) as file:
        file.convert("RGB")
    faults = [fault for batch in loader(ImageFolder.open(twelve.root), recipe(13)).epoch(0) for fault in batch.faults]
    assert [fault.where for fault in faults] == [str(path)]


def test_an_image_that_is_a_bomb_is_told(twelve: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(twelve.root / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # an error from twice that on
    faults = [fault for batch in loader(ImageFolder.open(twelve.root), recipe(13)).epoch(0) for fault in batch.faults]
    assert [Path(fault.where).name for fault in faults] == ["bomb.png"]
    assert "decompression bomb" in faults[0].reason


def test_pillows_warnings_are_no_flood_and_others_are_heard(
    twelve: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # a warning for 40×40
    with pytest.warns(Image.DecompressionBombWarning), Image.open(twelve.paths[0]):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(batch.faults for batch in loader(twelve, recipe(6)).epoch(0))

    def warning_maker(image: Image.Image, epoch: int, number: int) -> tuple[Tensor, ...]:
        warnings.warn("of the maker's own", stacklevel=1)
        return (torch.zeros(1),)

    with pytest.warns(UserWarning, match="of the maker's own"):
        list(Loader(twelve, recipe(6), in_process(), warning_maker, seed=0).epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_all_unreadable_end_the_epoch(twelve: ImageFolder, workers: int) -> None:
    for path in twelve.paths:
        path.write_bytes(b"\x00")
    with pytest.raises(HereOnly, match=r"expected images that can be read, found 12 in a row that cannot"):
        list(loader(twelve, recipe(4, workers)).epoch(0))


def test_at_most_a_hundred_are_tried(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number:03d}.png").touch()
    with pytest.raises(HereOnly, match="found 100 in a row that cannot"):
        list(loader(ImageFolder.open(tmp_path), recipe(4)).epoch(0))


def test_too_few_images_are_an_error_with_a_cure(ten: ImageFolder) -> None:
    with pytest.raises(UserError, match=r"expected at least 16 images, one global batch, found 10; .*batch_size=8"):
        loader(ten, recipe(16))
    with pytest.raises(UserError, match=r"epoch_images: expected at least 8 images, one global batch, found 7"):
        loader(ten, recipe(8, 0, "epoch_images=7"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_every_seed_will_do(ten: ImageFolder, seed: int) -> None:
    assert (
        len(
            list(
                Loader(ten, QUICKSTART_MOCO_V1.overridden(("batch_size=5",)), in_process(), Shown(), seed=seed).epoch(0)
            )
        )
        == 2
    )
