"""Decoding and cropping against Pillow's conversion and torchvision's float resized crop."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as reference

from pretrain.input.decode import decode, resized_crop, shrink
from pretrain.input.draws import Crop


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with fine noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + generator.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


FORMS = [
    ("RGB", "JPEG"),
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
    ("RGB", "PNG"),
    ("RGBA", "PNG"),
    ("LA", "PNG"),
    ("P", "PNG"),
    ("1", "PNG"),
    ("RGB", "WEBP"),
]


@pytest.mark.parametrize(("mode", "form"), FORMS)
def test_pixels_are_those_of_pillows_conversion(mode: str, form: str) -> None:
    data = encoded(picture(75, 50).convert(mode), form)
    pixels, factor = decode(Image.open(io.BytesIO(data)))
    assert factor == 1
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("transform", ["progressive", "exif", "grey palette"])
def test_odd_files_are_read_as_pillow_reads_them(transform: str) -> None:
    file, image = io.BytesIO(), picture(75, 50)
    if transform == "progressive":
        image.save(file, "JPEG", progressive=True, subsampling=0)
    elif transform == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # turned; the reference does not turn it back
        image.save(file, "JPEG", exif=exif)
    else:
        image.convert("L").convert("P").save(file, "GIF")
    pixels, _ = decode(Image.open(io.BytesIO(file.getvalue())))
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_truncated_jpeg_is_an_error(factor: int) -> None:
    data = encoded(picture(300, 200))
    with pytest.raises(OSError, match="truncated"):
        decode(Image.open(io.BytesIO(data[: len(data) // 2])), factor)


def test_an_image_that_is_loaded_already_is_used_as_it_is() -> None:
    image = picture(30, 20)
    pixels, factor = decode(image, 2)
    assert factor == 1
    assert np.array_equal(pixels, np.asarray(image))
    opened = Image.open(io.BytesIO(encoded(image)))
    opened.load()
    assert np.array_equal(decode(opened)[0], np.asarray(opened))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(320, 240), (317, 243)])
def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(mode: str, factor: int, size: tuple[int, int]) -> None:
    data = encoded(picture(*size).convert(mode))
    pixels, real = decode(Image.open(io.BytesIO(data)), factor)
    assert real == factor
    assert pixels.shape == (-(-size[1] // factor), -(-size[0] // factor), 3)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    box = (0, 0, pixels.shape[1] * factor, pixels.shape[0] * factor)
    means = np.asarray(whole.crop(box).resize(pixels.shape[1::-1], Image.Resampling.BOX), dtype=np.float64)
    inside = (slice(size[1] // factor), slice(size[0] // factor))
    assert np.abs(pixels - means)[inside].mean() < 3


@given(
    sides=st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=2),
    size=st.integers(1, 256),
)
def test_a_crop_keeps_the_pixels_that_the_view_has(sides: list[tuple[int, int]], size: int) -> None:
    crops = [Crop(0, 0, *side) for side in sides]
    factor = shrink(crops, size)
    smallest = min(min(side) for side in sides)
    assert factor == 1 or smallest // factor >= size
    assert factor == 8 or smallest // (2 * factor) < size


@given(
    crop=st.tuples(st.integers(0, 70), st.integers(0, 90), st.integers(1, 130), st.integers(1, 110)),
    size=st.sampled_from([8, 32, 64]),
    seed=st.integers(0, 3),
)
def test_a_resized_crop_is_within_one_level_of_torchvisions_float_one(
    crop: tuple[int, int, int, int], size: int, seed: int
) -> None:
    pixels = np.asarray(picture(200, 200, seed))
    levels = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    expected = reference.resized_crop(levels.float(), *crop, [size, size], antialias=True)
    result = resized_crop(pixels, Crop(*crop), 1, size)
    assert result.shape == (3, size, size)
    # It is rounded twice, to half a level each time; the float result itself is off by a few 1e-5.
    assert (result.float() - expected).abs().max() <= 1 + 1e-3


@given(place=st.tuples(st.integers(0, 100), st.integers(0, 100)), factor=st.sampled_from([2, 4, 8]))
def test_at_a_fraction_edges_are_off_by_half_a_pixel_at_most(place: tuple[int, int], factor: int) -> None:
    size = 16
    crop = Crop(*place, height=size * factor + 5, width=size * factor + 3)
    across, down = np.meshgrid(np.arange(90), np.arange(90))
    pixels = np.stack([across, down, 0 * down], axis=-1).astype(np.uint8)  # a pixel's value is where it lies
    result = resized_crop(pixels, crop, factor, size).float()
    # The middle of the crop, in pixels of the small image, whose first has its middle at 0.
    middle = ((crop.left + crop.width / 2) / factor - 0.5, (crop.top + crop.height / 2) / factor - 0.5)
    assert abs(result[0].mean() - middle[0]) <= 1
    assert abs(result[1].mean() - middle[1]) <= 1
