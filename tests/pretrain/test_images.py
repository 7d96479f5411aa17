"""Reading images, the order of an epoch, and the augmentations."""

from __future__ import annotations

import random
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from converters.errors import UserError
from pretrain.augment import GaussianBlur, TwoViews, stream, transform
from pretrain.images import ImageFolder
from pretrain.loading import Draw, EpochBatches, TwoViewImages, Unreadable, collate
from pretrain.recipes import MOCO_V1, MOCO_V2, QUICKSTART_MOCO_V1, QUICKSTART_MOCO_V2, Recipe
from tests.pretrain.made_images import make_images


def test_train_is_used_where_there_is_one(tmp_path: Path) -> None:
    make_images(tmp_path, 6)
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "x.png")
    whole, train = ImageFolder.open(tmp_path), ImageFolder.open(tmp_path / "train")
    assert [path.relative_to(tmp_path).as_posix() for path in whole.paths] == [
        *(f"train/class0/{n:03d}.png" for n in (0, 2, 4)),
        *(f"train/class1/{n:03d}.png" for n in (1, 3, 5)),
    ]
    assert whole == train


def test_a_flat_or_deep_or_linked_folder_will_do_and_other_files_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "a" / "b").mkdir(parents=True)
    for name in ("x.JPG", "a/y.png", "a/b/z.webp"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "w.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    found = ImageFolder.open(folder)
    assert [path.relative_to(folder).as_posix() for path in found.paths] == [
        "a/b/z.webp",
        "a/y.png",
        "link/w.png",
        "x.JPG",
    ]
    assert not found.sample


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    make_images(tmp_path, 2)
    before = ImageFolder.open(tmp_path)
    (tmp_path / "train" / "class0" / "._0.png").write_bytes(b"what a Mac leaves on foreign disks")
    assert ImageFolder.open(tmp_path) == before


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    make_images(tmp_path, 2)
    for name in ("x.png", "class_elsewhere"):
        link = tmp_path / "train" / name
        link.symlink_to(tmp_path / "nothing")
        with pytest.raises(UserError, match=rf"{name}: expected images, found a link to nothing"):
            ImageFolder.open(tmp_path)
        link.unlink()


def test_a_link_to_a_folder_above_lists_nothing_twice(tmp_path: Path) -> None:
    make_images(tmp_path, 2)
    before = ImageFolder.open(tmp_path).paths
    (tmp_path / "train" / "class0" / "up").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "higher").symlink_to(tmp_path)
    assert ImageFolder.open(tmp_path).paths == before


def test_the_fingerprint_says_which_images(tmp_path: Path) -> None:
    one = ImageFolder.open(make_images(tmp_path / "one", 4))
    same = ImageFolder.open(make_images(tmp_path / "two", 4))
    more = ImageFolder.open(make_images(tmp_path / "three", 5))
    assert one.fingerprint == same.fingerprint != more.fingerprint


def test_a_missing_or_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: expected a folder of images, found nothing"):
        ImageFolder.open(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "readme.txt").write_text("")
    with pytest.raises(UserError, match=r"train: expected images .*, found none"):
        ImageFolder.open(tmp_path)
    with pytest.raises(UserError, match="found a file"):
        ImageFolder.open(tmp_path / "train" / "readme.txt")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_also_from_a_worker(tmp_path: Path, workers: int) -> None:
    folder = ImageFolder.open(make_images(tmp_path, 4))
    damaged = folder.paths[2]
    damaged.write_bytes(damaged.read_bytes()[:60])
    data = TwoViewImages(folder, TwoViews(QUICKSTART_MOCO_V2, 0))
    batches = [[Draw(0, 0), Draw(0, 1)], [Draw(0, 2), Draw(0, 3)]]
    good, bad = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=workers)
    assert not isinstance(good, Unreadable)
    assert isinstance(bad, Unreadable)
    assert str(damaged) in str(bad.error())


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("not an image")
    data = TwoViewImages(ImageFolder.open(tmp_path), TwoViews(QUICKSTART_MOCO_V1, 0))
    found = data[Draw(0, 0)]
    assert isinstance(found, Unreadable)
    assert found.path == tmp_path / "fake.jpg"


def test_a_damage_that_pillow_answers_with_a_type_error_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tags.tif"
    Image.new("RGB", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[72] = 2  # the number of the strip's rows is given as text
    path.write_bytes(content)
    with pytest.raises(TypeError), Image.open(path) as file:
        file.convert("RGB")
    found = TwoViewImages(ImageFolder.open(tmp_path), TwoViews(QUICKSTART_MOCO_V1, 0))[Draw(0, 0)]
    assert isinstance(found, Unreadable)
    assert found.path == path


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**40))
def test_each_epoch_shows_each_image_at_most_once(images: int, share: int, world: int, epoch: int, seed: int) -> None:
    batch_size = share * world

    def batches(rank: int, of: int) -> list[list[Draw]]:
        sampler = EpochBatches(images, batch_size, rank=rank, world=of, seed=seed)
        sampler.epoch = epoch
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    whole = batches(0, 1)
    # The global batches are the same however many processes share them.
    together = [list(chain(*parts)) for parts in zip(*(batches(rank, world) for rank in range(world)), strict=True)]
    assert together == whole
    shown = [draw.image for batch in whole for draw in batch]
    assert len(shown) == len(set(shown)) == images // batch_size * batch_size
    assert set(shown) <= set(range(images))


def test_each_epoch_and_seed_has_its_own_order() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochBatches(50, 10, rank=0, world=1, seed=seed)
        sampler.epoch = epoch
        return [draw.image for batch in sampler for draw in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_an_epoch_can_be_taken_up_in_its_middle() -> None:
    sampler = EpochBatches(50, 10, rank=0, world=1, seed=3)
    whole = list(sampler)
    sampler.start = 3
    assert list(sampler) == whole[3:]


def photograph(size: int = 64) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


def names(recipe: Recipe) -> list[str]:
    return [type(step).__name__ for step in transform(recipe).transforms]


def test_the_lists_are_in_the_references_order() -> None:
    tail = ["RandomHorizontalFlip", "ToTensor", "Normalize"]
    assert names(MOCO_V1) == ["RandomResizedCrop", "RandomGrayscale", "ColorJitter", *tail]
    assert names(MOCO_V2) == ["RandomResizedCrop", "RandomApply", "RandomGrayscale", "RandomApply", *tail]
    jitter, blur = transform(MOCO_V2).transforms[1], transform(MOCO_V2).transforms[3]
    assert (type(jitter.transforms[0]).__name__, jitter.p, jitter.transforms[0].hue) == (
        "ColorJitter",
        0.8,
        (-0.1, 0.1),
    )
    assert (type(blur.transforms[0]).__name__, blur.p) == ("GaussianBlur", 0.5)
    assert transform(MOCO_V1).transforms[2].hue == (-0.4, 0.4)


SIZE_AND_BLUR = ("image_size=48", "blur_radius=[0.1, 2.0]")
"""What `by_hand` has; the quickstart recipes may choose others."""


@pytest.mark.parametrize(
    "recipe", [QUICKSTART_MOCO_V1.overridden(SIZE_AND_BLUR), QUICKSTART_MOCO_V2.overridden(SIZE_AND_BLUR)]
)
def test_a_view_is_what_the_same_draws_give_operation_by_operation(recipe: Recipe) -> None:
    """Each list written out by hand, with draws from the stream of (seed, epoch, index, view)."""
    image = photograph()
    seed, epoch, index = 11, 3, 1234
    views = TwoViews(recipe, seed)(image, epoch, index)
    for number, view in enumerate(views):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(stream(seed, epoch, index, number))
            expected = by_hand(image, recipe)
        assert view.shape == (3, 48, 48)
        assert torch.equal(view, expected)
    assert not torch.equal(*views)


def by_hand(image: Image.Image, recipe: Recipe) -> Tensor:
    image = transforms.RandomResizedCrop(48, scale=(0.2, 1.0))(image)
    if recipe.augmentation == "v1":
        image = transforms.RandomGrayscale(p=0.2)(image)
        image = transforms.ColorJitter(0.4, 0.4, 0.4, 0.4)(image)
    else:
        if torch.rand(1) <= 0.8:
            image = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)(image)
        image = transforms.RandomGrayscale(p=0.2)(image)
        if torch.rand(1) <= 0.5:
            image = image.filter(ImageFilter.GaussianBlur(torch.empty(1).uniform_(0.1, 2.0).item()))
    if torch.rand(1) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (values - mean[:, None, None]) / std[:, None, None]


def test_the_blur_radius_covers_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[float] = []
    monkeypatch.setattr(ImageFilter, "GaussianBlur", lambda radius: radii.append(radius) or ImageFilter.BLUR)
    torch.manual_seed(0)
    for _ in range(300):
        GaussianBlur((0.1, 2.0))(Image.new("RGB", (4, 4)))
    assert 0.1 <= min(radii) < 0.2
    assert 1.9 < max(radii) <= 2.0
    assert np.mean(radii) == pytest.approx(1.05, abs=0.1)


def test_draws_disturb_no_generator_and_heed_none() -> None:
    views, image = TwoViews(QUICKSTART_MOCO_V2, 0), photograph()
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state()
    first = views(image, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    random.seed(2)
    assert torch.equal(first[0], views(image, 0, 0)[0])


def test_the_number_of_workers_changes_no_image(tmp_path: Path) -> None:
    folder = ImageFolder.open(make_images(tmp_path, 8))

    def all_views(workers: int) -> list[Tensor]:
        sampler = EpochBatches(8, 2, rank=0, world=1, seed=0)
        data = TwoViewImages(folder, TwoViews(QUICKSTART_MOCO_V2, 0))
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        return [view.clone() for views in loader for view in views]

    assert all(torch.equal(one, other) for one, other in zip(all_views(0), all_views(2), strict=True))
