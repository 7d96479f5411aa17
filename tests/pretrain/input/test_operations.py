"""Each operation on images with parameters of their own, against torchvision's float tensor operation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as reference

from pretrain.input import operations
from pretrain.input.operations import Pictures

BOUND = 1e-5  # the promise is 2/255; the same formula in float32 does far better

FACTORS = st.one_of(st.floats(0.01, 4), st.sampled_from([0.01, 0.6, 1.0, 1.4, 10.0]))
SHIFTS = st.one_of(
    st.floats(-0.5, 0.5), st.sampled_from([-0.5, -1 / 3, -1 / 6, -0.1, 0.0, 0.1, 1 / 6, 1 / 3, 0.4, 0.5])
)
MEMORY = [torch.contiguous_format, torch.channels_last]
SIGMAS = st.floats(0.05, 2.5)


def some_images(count: int, seed: int, height: int = 21, width: int = 26) -> Tensor:
    """Of noise, with the pixels at which an operation's cases meet: equal channels, 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, height, width, generator=generator)
    images[:, :, 0:3] = images[:, :, 0:3].round()
    images[:, 1, 3:6] = images[:, 0, 3:6]
    images[:, 2, 6:9] = images[:, 1, 6:9]
    images[:, 0, 9:12] = images[:, 2, 9:12]
    images[:, :, 12:14] = images[:, :1, 12:14]
    images[:, :, 14] = (images[:, :, 14] * 255).round() / 255
    return images


def together(images: Tensor, numbers: list[float], operation: Callable[[Pictures, Tensor], None]) -> Tensor:
    """As on a GPU: one call for N images."""
    pictures = Pictures.of(255 * images, 1 / 255)
    operation(pictures, torch.tensor(numbers).view(-1, 1, 1, 1))
    return pictures.images()


OPERATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., None], Callable[..., Tensor]]] = {
    "brightness": (operations.adjust_brightness, Pictures.brightness, reference.adjust_brightness),
    "contrast": (operations.adjust_contrast, Pictures.contrast, reference.adjust_contrast),
    "saturation": (operations.adjust_saturation, Pictures.saturation, reference.adjust_saturation),
    "hue": (operations.adjust_hue, Pictures.hue, reference.adjust_hue),
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_an_operation_equals_torchvisions(name: str, data: st.DataObject, seed: int) -> None:
    public, method, expected_of = OPERATIONS[name]
    numbers = data.draw(st.lists(SHIFTS if name == "hue" else FACTORS, min_size=1, max_size=4))
    images = some_images(len(numbers), seed).to(memory_format=data.draw(st.sampled_from(MEMORY)))
    kept = images.clone()
    expected = torch.stack([expected_of(image, number) for image, number in zip(images, numbers, strict=True)])
    assert (public(images, torch.tensor(numbers)) - expected).abs().max() <= BOUND
    assert torch.equal(images, kept), "the images given were changed"
    assert (together(images, numbers, method) - expected).abs().max() <= BOUND


@given(shifts=st.lists(st.floats(-1 / 6, 1 / 6), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_small_turns_of_the_hue_need_no_exchange_of_channels(shifts: list[float], seed: int) -> None:
    images = some_images(len(shifts), seed)
    expected = torch.stack([reference.adjust_hue(image, shift) for image, shift in zip(images, shifts, strict=True)])
    result = together(images, shifts, lambda pictures, turn: pictures.hue(turn, small=True))
    assert (result - expected).abs().max() <= BOUND


@given(sigmas=st.lists(SIGMAS, min_size=1, max_size=3), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_a_blur_equals_torchvisions(sigmas: list[float], seed: int) -> None:
    # Wider than a block of the CPU's method, and not square.
    images = some_images(len(sigmas), seed, height=23, width=75).to(memory_format=torch.channels_last)
    expected = torch.stack(
        [
            reference.gaussian_blur(image, [2 * math.ceil(4 * sigma) + 1] * 2, [sigma] * 2)
            for image, sigma in zip(images, sigmas, strict=True)
        ]
    )
    assert (operations.gaussian_blur(images, torch.tensor(sigmas)) - expected).abs().max() <= BOUND
    assert (together(images, sigmas, Pictures.blur) - expected).abs().max() <= BOUND


def test_the_blurs_kernel_covers_the_gaussian() -> None:
    image = some_images(1, 0, height=40, width=40)
    wider = reference.gaussian_blur(image, [39, 39], [2.0, 2.0])
    assert (operations.gaussian_blur(image, torch.tensor([2.0])) - wider).abs().max() < 0.1 / 255


def test_a_blur_reaches_no_farther_than_the_border_reflects() -> None:
    image = some_images(1, 0, height=15, width=15)[..., :5, :6]
    expected = reference.gaussian_blur(image, [11, 9], [2.0, 2.0])
    assert (operations.gaussian_blur(image, torch.tensor([2.0])) - expected).abs().max() <= BOUND
    assert (together(image, [2.0], Pictures.blur) - expected).abs().max() <= BOUND


def test_together_a_deviation_of_zero_is_no_blur() -> None:
    images = some_images(2, 0)
    result = together(images, [0.0, 1.0], Pictures.blur)
    assert (result[0] - images[0]).abs().max() <= BOUND
    assert (result[1] - images[1]).abs().max() > 0.1


@given(which=st.lists(st.booleans(), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_grey_equals_torchvisions(which: list[bool], seed: int) -> None:
    images = some_images(len(which), seed)
    all_grey = reference.rgb_to_grayscale(images, num_output_channels=3)
    assert (operations.rgb_to_grayscale(images) - all_grey).abs().max() <= BOUND
    chosen = torch.tensor(which).view(-1, 1, 1, 1)
    result = together(images, [0.0] * len(which), lambda pictures, _: pictures.grey(chosen))
    assert (result - torch.where(chosen, all_grey, images)).abs().max() <= BOUND


STEPS = ("brightness", "contrast", "saturation", "hue", "grey", "blur")


@given(steps=st.lists(st.sampled_from(STEPS), max_size=7), data=st.data(), seed=st.integers(0, 1000))
def test_operations_follow_one_another_as_torchvisions_do(steps: list[str], data: st.DataObject, seed: int) -> None:
    # Between them the images are kept as scale, values and offset, grey ones as one channel.
    expected = some_images(1, seed, height=33, width=33)
    pictures = Pictures(255 * expected, 1 / 255, 0.0)
    for step in steps:
        if step == "grey":
            pictures.grey()
            expected = reference.rgb_to_grayscale(expected, num_output_channels=3)
        elif step == "blur":
            sigma = data.draw(SIGMAS)
            pictures.blur(sigma)
            expected = reference.gaussian_blur(expected, [2 * math.ceil(4 * sigma) + 1] * 2, [sigma] * 2)
        else:
            number = data.draw(SHIFTS if step == "hue" else st.floats(0.6, 1.4))
            _, method, expected_of = OPERATIONS[step]
            method(pictures, number)
            expected = expected_of(expected, number)
    result = torch.empty_like(expected)
    pictures.normalised((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), result)
    expected = reference.normalize(expected, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert (result - expected).abs().max() <= 1e-4
