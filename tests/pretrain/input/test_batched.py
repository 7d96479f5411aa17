"""The batched pipeline against torchvision's operations one after the other, and against the per-image pipeline."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import functional as reference

from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from pretrain.input.augment import finisher, view_maker
from pretrain.input.batched import Finish, Memory
from pretrain.input.decode import shrink
from pretrain.input.draws import Draws, View, unpacked
from pretrain.recipes import MOCO_V1, MOCO_V2, Recipe

CPU = torch.device("cpu")
COUNT = 24


def batched(recipe: Recipe, size: int) -> Recipe:
    return recipe.model_copy(update={"pipeline": "batched", "image_size": size})


RECIPES = [pytest.param(batched(recipe, 40), id=recipe.id) for recipe in (MOCO_V1, MOCO_V2)]


def picture(number: int, *, width: int = 90, height: int = 70) -> Image.Image:
    """Smooth random colours."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def made(recipe: Recipe, *, epoch: int = 1) -> tuple[Tensor, ...]:
    """A batch as it leaves the loader."""
    maker = view_maker(recipe, seed=5)
    return tuple(default_collate([maker(picture(number), epoch, number) for number in range(COUNT)]))


def augmented(crop: Tensor, view: View, recipe: Recipe) -> Tensor:
    """3×S×S uint8 -> 3×S×S: torchvision's float operations in the order of the reference's list."""
    image = crop.float() / 255
    if view.grey and recipe.augmentation == "v1":
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    adjust = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    for step in view.order:
        image = adjust[step](image, view.factors[step])
    if view.grey and recipe.augmentation == "v2":
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    if view.sigma:
        image = reference.gaussian_blur(image, [2 * math.ceil(4 * view.sigma) + 1] * 2, [view.sigma] * 2)
    if view.flip:
        image = reference.hflip(image)
    return reference.normalize(image, IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_views_equal_torchvisions_operations(recipe: Recipe, together: bool) -> None:
    crops, parameters = views = made(recipe)
    if together:  # as on a GPU
        im_q, im_k = torch.full_like(crops[:, 0], math.nan, dtype=torch.float32).repeat(2, 1, 1, 1, 1)
        Finish(recipe).together(crops, [unpacked(row) for row in parameters.flatten(0, 1).tolist()], im_q, im_k)
    else:
        im_q, im_k = finisher(recipe)(views, CPU)
    draws = Draws(recipe, 5)
    for number in range(COUNT):
        for side, result in enumerate((im_q, im_k)):
            view = draws(90, 70, 1, number, side)
            expected = augmented(crops[number, side], view, recipe)
            assert (result[number] - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_of_the_finisher_on_a_device_waits_for_it(recipe: Recipe) -> None:
    # A tensor on the meta device has no content: whatever asks for it fails.
    im_q, im_k = finisher(recipe)(made(recipe), torch.device("meta"))
    assert im_q.shape == im_k.shape == (COUNT, 3, 40, 40)


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_pipelines_make_the_same_picture_from_the_same_seed(recipe: Recipe) -> None:
    plain = recipe.model_copy(update={"pipeline": "torchvision"})
    results = finisher(recipe)(made(recipe), CPU)
    expected = finisher(plain)(made(plain), CPU)
    levels = 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for result, other in zip(results, expected, strict=True):
        difference = (levels * (result - other)).abs()
        # PIL rounds to whole levels after every operation, and its blur is of boxes.
        assert difference.mean() < 2
        assert difference.flatten(1).mean(1).max() < 5


SIZES = ((400, 300), (480, 400), (200, 150))
"""Of JPEGs whose crops of 32 pixels are cut from images decoded at a half, a quarter or an eighth."""


def jpegs(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """im_q and im_k of encoded images, as the loader opens them."""
    maker, made = view_maker(recipe, seed=5), []
    for number in range(3 * COUNT):
        file = io.BytesIO()
        width, height = SIZES[number % 3]
        picture(number, width=width, height=height).save(file, "JPEG", quality=95)
        made.append(maker(Image.open(file), 1, number))
    return finisher(recipe)(tuple(default_collate(made)), CPU)


@pytest.mark.parametrize("base", [MOCO_V1, MOCO_V2], ids=lambda recipe: recipe.id)
def test_both_pipelines_make_the_same_picture_of_a_jpeg_decoded_smaller(base: Recipe) -> None:
    recipe = batched(base, 32)
    draws = Draws(recipe, 5)
    factors = torch.tensor(
        [
            shrink([draws(*SIZES[number % 3], 1, number, side).crop for side in (0, 1)], 32)
            for number in range(3 * COUNT)
        ]
    )
    assert set(factors.tolist()) == {2, 4, 8}
    plain = recipe.model_copy(update={"pipeline": "torchvision"})
    levels = 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for result, other in zip(jpegs(recipe), jpegs(plain), strict=True):
        difference = (levels * (result - other)).abs().flatten(1).mean(1)
        # The edges of a crop fall on whole pixels of the smaller image; a further pixel beside breaks these bounds.
        for factor, mean, worst in ((2, 3.1, 7), (4, 2.6, 6), (8, 4.3, 14)):
            assert difference[factors == factor].mean() < mean
            assert difference[factors == factor].max() < worst


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_view_depends_on_seed_epoch_number_and_side_alone(recipe: Recipe) -> None:
    once, again = made(recipe), made(recipe)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    later = made(recipe, epoch=2)
    assert not torch.equal(once[1], later[1])
    assert not torch.equal(once[1][:, 0], once[1][:, 1])
    whole = finisher(recipe)(once, CPU)
    part = finisher(recipe)(tuple(tensor[7:9] for tensor in once), CPU)
    assert all(torch.equal(a[7:9], b) for a, b in zip(whole, part, strict=True))


def test_batches_larger_than_a_chunk_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = batched(MOCO_V2, 16)
    views = made(recipe)
    expected = finisher(recipe)(views, CPU)
    # The CPU has its own method, so it is shown here as another device.
    finish = Finish(recipe)
    jobs = [unpacked(row) for row in views[1].flatten(0, 1).tolist()]
    for start in range(0, COUNT, 7):
        end = min(start + 7, COUNT)
        im_q, im_k = torch.empty(end - start, 3, 16, 16), torch.empty(end - start, 3, 16, 16)
        finish.together(views[0][start:end], jobs[2 * start : 2 * end], im_q, im_k)
        assert (im_q - expected[0][start:end]).abs().max() <= 1e-4
        assert (im_k - expected[1][start:end]).abs().max() <= 1e-4


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    memory = Memory()
    first = memory.take((2, 3))
    place = first.data_ptr()
    view = first.fill_(1)[1].view(-1)
    del first
    assert memory.take((2, 3)).data_ptr() != place, "a view still reads it"
    assert view.tolist() == [1, 1, 1]
    weight = torch.ones(3, requires_grad=True)
    loss = (view * weight).sum()  # autograd keeps the view
    del view
    assert memory.take((2, 3)).data_ptr() != place
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 1, 1]
    del loss
    assert memory.take((2, 3)).data_ptr() == place
    assert memory.take((5,)).shape == (5,)


def test_a_batch_is_not_overwritten_by_the_next() -> None:
    recipe = batched(MOCO_V2, 16)
    finish, views = finisher(recipe), made(recipe)
    kept = finish(views, CPU)
    copies = [view.clone() for view in kept]
    for _ in range(3):
        finish(made(recipe, epoch=2), CPU)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
