"""Which images a data set holds, and the augmentations."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from converters.errors import UserError
from pretrain.input.augment import GaussianBlur, TwoViews, transform
from pretrain.input.draws import stream
from pretrain.input.images import ImageFolder, ImageList, open_source
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


def test_a_list_names_images_and_its_fingerprint_is_that_of_their_folder(tmp_path: Path) -> None:
    folder = ImageFolder.open(make_images(tmp_path / "data", 5))
    listed = tmp_path / "lists" / "all.txt"
    listed.parent.mkdir()
    absolute, relative = folder.paths[:2], folder.paths[2:]
    lines = ["# absolute", *map(str, absolute), "", "  # relative  "]
    lines += [f"  ../{path.relative_to(tmp_path)}  " for path in reversed(relative)]
    listed.write_text("\n".join(lines))
    found = open_source(str(listed))
    assert isinstance(found, ImageList)
    assert (found.paths, found.root, found.count) == (folder.paths, folder.root, 5)
    assert found.fingerprint == folder.fingerprint
    listed.write_text("\n".join(lines[:-1]))
    assert open_source(listed).fingerprint != folder.fingerprint


def test_a_listed_file_needs_no_ending_and_a_list_of_one_will_do(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "c0ffee", "PNG")
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfc0ffee\r\n")
    found = ImageList.open(tmp_path / "list")
    assert found.paths == (tmp_path / "c0ffee",)
    assert found.where == str(tmp_path / "list")


def test_wrong_lists_are_one_line_each(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "folder.d").mkdir()
    listed = tmp_path / "list.txt"

    def refusal(content: bytes) -> str:
        listed.write_bytes(content)
        with pytest.raises(UserError) as caught:
            open_source(listed)
        return str(caught.value).removeprefix(str(listed))

    assert refusal(b"") == refusal(b"\n# nothing\n")
    assert refusal(b"").startswith(": expected a list of images or tar shards, one path a line, found no entry; ")
    missing = refusal(b"# two\na.png\n\nabsent.png\n")
    assert missing == (
        f", line 4: expected an image file, found none at {tmp_path}/absent.png; correct or remove the line"
    )
    assert refusal(b"a.png\nfolder.d\n").startswith(f", line 2: expected an image file, found a folder at {tmp_path}")
    assert refusal(b"a.png\n./a.png\n").startswith(", line 2: expected each image once, found one that line 1 has")
    assert refusal(b"\xff\xd8\xff").startswith(
        ": expected a list of files: text in UTF-8, one path a line, found other"
    )
    with pytest.raises(
        UserError, match="nowhere: expected a folder of images, a list of files, or tar shards, found n"
    ):
        open_source(tmp_path / "nowhere")


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
