"""Materials and composition: train and val share no pixel, and the ground truth is what was drawn."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.sample.materials import (
    CITYSCAPES_IDS,
    MATERIALS,
    SPLITS,
    VOC_CLASSES,
    Half,
    Photograph,
    Split,
    cut_in_two,
    read_photographs,
)
from transfer.sample.scenes import Scene, crop, scene

COLOURS = [(13 * m, 255 - 13 * m, (97 * m) % 256) for m in range(19)]
PHOTOGRAPHS = read_photographs()


def one_colour_each() -> list[Photograph]:
    """Photographs that tell their material by colour; all of a train half is darker than all of a val half."""
    return [
        Photograph(
            *(Half(Image.new("RGB", (90, 70), tuple(value // 2 + shift for value in colour))) for shift in (0, 128)),
            sha256="",
        )
        for colour in COLOURS
    ]


def test_materials_are_mapped_one_to_one() -> None:
    assert len(MATERIALS) == 19
    for column in ("name", "file", "voc", "cityscapes"):
        assert len({getattr(material, column) for material in MATERIALS}) == 19, column
    assert {material.voc for material in MATERIALS} == set(VOC_CLASSES) - {"car"}
    assert {material.cityscapes for material in MATERIALS} == set(CITYSCAPES_IDS)


def test_photographs_differ() -> None:
    assert len({photograph.sha256 for photograph in PHOTOGRAPHS}) == 19


@pytest.mark.parametrize("index", range(19), ids=[material.name for material in MATERIALS])
def test_the_parts_make_up_the_photograph(index: int) -> None:
    """Laid side by side they are the whole photograph: they share no pixel."""
    material = MATERIALS[index]
    spec = importlib.util.find_spec(material.package)
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / material.file) as file:
        whole = np.array(file)
    whole = np.stack([whole] * 3, axis=2) if whole.ndim == 2 else whole
    parts = [np.array(PHOTOGRAPHS[index].half(split).image) for split in SPLITS]
    assert np.array_equal(np.concatenate(parts, axis=1 if material.axis == "x" else 0), whole)
    assert min(part.size for part in parts) > 0.4 * whole.size


def test_cut_puts_left_into_train() -> None:
    pixels = np.zeros((8, 11, 3), dtype=np.uint8)
    pixels[:, 5:] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    photograph = cut_in_two(buffer.getvalue())
    assert np.array(photograph.train.image).max() == 0
    assert np.array(photograph.val.image).min() == 255


@pytest.mark.parametrize("split", SPLITS)
def test_images_of_a_split_show_its_parts_alone(split: Split) -> None:
    dark, bright = (np.zeros((80, 60, 3), dtype=np.uint8), np.full((80, 60, 3), 255, dtype=np.uint8))
    photographs = [Photograph(Half(Image.fromarray(dark)), Half(Image.fromarray(bright)), "")] * 19
    expected = {0} if split == "train" else {255}
    for index in range(20):
        assert set(np.unique(scene(photographs, 0, split, index=index, px=64).image).tolist()) == expected
        image = crop(photographs, 0, split, material=3, index=index, px=64)
        assert set(np.unique(np.array(image)).tolist()) == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**64), index=st.integers(0, 10**6), px=st.sampled_from([33, 64, 128]))
def test_every_pixel_is_annotated_as_what_it_shows(seed: int, index: int, px: int) -> None:
    drawn = scene(one_colour_each(), seed, "train", index=index, px=px)
    shown = np.array([[value // 2 for value in colour] for colour in COLOURS])[drawn.materials]
    assert np.array_equal(drawn.image, shown)
    assert drawn.image.shape == (px, px, 3)
    assert drawn.background == index % 19
    assert 2 <= len(drawn.patches) <= 5
    assert len({patch.material for patch in drawn.patches} | {drawn.background}) == len(drawn.patches) + 1
    assert np.sum([patch.mask for patch in drawn.patches], axis=0).max() == 1
    for patch in drawn.patches:
        left, top, right, bottom = patch.box
        assert patch.mask.sum() >= (0.1 * px) ** 2
        assert patch.mask[top:bottom, left:right].sum() == patch.mask.sum()
        assert patch.mask[top].any()
        assert patch.mask[bottom - 1].any()
        assert patch.mask[:, left].any()
        assert patch.mask[:, right - 1].any()


def test_scenes_are_as_varied_as_promised() -> None:
    drawn: list[Scene] = [scene(one_colour_each(), 0, "train", index=index, px=64) for index in range(190)]
    assert {len(item.patches) for item in drawn} == {2, 3, 4, 5}
    assert np.bincount([item.background for item in drawn]).tolist() == [10] * 19
    patches = np.bincount([patch.material for item in drawn for patch in item.patches], minlength=19)
    assert patches.min() > 15
    share_truncated = np.mean([patch.truncated for item in drawn for patch in item.patches])
    assert 0.2 < share_truncated < 0.8


@given(data=st.data())
def test_contrast_is_the_standard_deviation_of_the_brightness(data: st.DataObject) -> None:
    half = PHOTOGRAPHS[data.draw(st.integers(0, 18))].train
    width, height = half.image.size
    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    window = np.array(half.image.convert("L"), dtype=np.float64)[top:bottom, left:right]
    assert half.contrast(left, top, right, bottom) == pytest.approx(window.std(), abs=1e-6)
