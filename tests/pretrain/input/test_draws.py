"""Parameters of views: the very numbers that torchvision's transforms draw."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from pretrain.input.draws import Crop, Draws, View, packed, stream, unpacked
from pretrain.recipes import MOCO_V1, MOCO_V2, Recipe

SIDES = st.integers(1, 700)


def drawn_by_torchvision(recipe: Recipe, seed: int, *, size: tuple[int, int], key: tuple[int, int, int]) -> View:
    """The draws of the reference's list of transforms, through torchvision's own functions."""

    def jitter(hue: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
        near = (0.6, 1.4)
        order, *factors = transforms.ColorJitter.get_params(near, near, near, (-hue, hue))
        return tuple(order.tolist()), tuple(factors)

    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(stream(seed, *key))
        crop = transforms.RandomResizedCrop.get_params(Image.new("RGB", size), recipe.crop_scale, (3 / 4, 4 / 3))
        order, factors, sigma = (), (1.0, 1.0, 1.0, 0.0), 0.0
        if recipe.augmentation == "v1":
            grey = bool(torch.rand(1) < 0.2)
            order, factors = jitter(0.4)
        else:
            if torch.rand(1) <= 0.8:
                order, factors = jitter(0.1)
            grey = bool(torch.rand(1) < 0.2)
            if torch.rand(1) <= 0.5:
                sigma = torch.empty(1).uniform_(*recipe.blur_radius).item()
        return View(Crop(*crop), order, factors, grey, sigma, bool(torch.rand(1) < 0.5))


@given(
    recipe=st.sampled_from([MOCO_V1, MOCO_V2]),
    seed=st.integers(0, 2**63),
    size=st.tuples(SIDES, SIDES),
    key=st.tuples(st.integers(0, 1000), st.integers(0, 2**40), st.integers(0, 1)),
)
def test_a_views_parameters_are_those_that_torchvision_draws(
    recipe: Recipe, seed: int, size: tuple[int, int], key: tuple[int, int, int]
) -> None:
    assert Draws(recipe, seed)(*size, *key) == drawn_by_torchvision(recipe, seed, size=size, key=key)


@given(size=st.tuples(SIDES, SIDES), number=st.integers(0, 10_000))
def test_a_crop_lies_in_the_image(size: tuple[int, int], number: int) -> None:
    crop = Draws(MOCO_V2, 0)(*size, 0, number, 0).crop
    assert crop.height > 0
    assert crop.width > 0
    assert 0 <= crop.left <= crop.left + crop.width <= size[0]
    assert 0 <= crop.top <= crop.top + crop.height <= size[1]


@given(recipe=st.sampled_from([MOCO_V1, MOCO_V2]), numbers=st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_packed_numbers_say_what_was_drawn(recipe: Recipe, numbers: list[int]) -> None:
    views = [Draws(recipe, 1)(500, 375, 0, number, 1) for number in numbers]
    for view, row in zip(views, packed(views).tolist(), strict=True):
        assert tuple(unpacked(row)) == tuple(view)[1:]


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    Draws(MOCO_V2, 0)(500, 375, 0, 0, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
