from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import UserError
from evaluators.datasets.card import DatasetCard
from evaluators.datasets.labelled import LabelledImages, Split
from evaluators.datasets.labels import hold_out, one_class_an_image


def split(labels: list[int] | np.ndarray, name: str = "train") -> Split:
    found = np.asarray(labels, dtype=np.int64)
    return Split(name, "f", tuple(Path(f"{index}.png") for index in range(len(found))), found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 5))
def test_every_class_gives_its_share(counts: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if max(counts) == 1:
        with pytest.raises(UserError, match="one image in each class"):
            hold_out(split(labels), share, seed, len(counts))
        return
    kept, out = hold_out(split(labels), share, seed, len(counts))
    assert sorted([*kept, *out]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        found = int((labels[out] == label).sum())
        assert found <= count - 1
        assert found == 0 if count == 1 else found >= 1
        assert abs(found - share * count) <= 1
    again = hold_out(split(labels), share, seed, len(counts))
    assert np.array_equal(out, again[1])


def test_the_seed_says_which() -> None:
    labels = np.zeros(100, dtype=np.int64)
    first, second = (hold_out(split(labels), 0.1, seed, 1)[1] for seed in (0, 1))
    assert len(first) == len(second) == 10
    assert not np.array_equal(first, second)


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(UserError, match=r"train: .*none of 1 classes, the first has index 1"):
        hold_out(split([0, 0, 2, 2]), 0.5, 0, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1, 2], r"1\.png|2\.png: expected labels from 0 to 1, found 1 others, the first 2"), ([0, -1], "first -1")],
    ids=["large", "negative"],
)
def test_a_label_outside_the_range(labels: list[int], message: str) -> None:
    card = DatasetCard(name="x", layout="list", fingerprint="f", sample=False, images={})
    with pytest.raises(UserError, match=message):
        one_class_an_image(LabelledImages(Path("root"), ("a", "b"), split([0, 1]), split(labels, "val"), card))


def test_images_with_several_classes() -> None:
    card = DatasetCard(name="x", layout="voc", fingerprint="f", sample=False, images={})
    several = Split("train", "f", (Path("a"), Path("b")), np.array([[1, -1], [1, 1]]))
    with pytest.raises(UserError, match="expected one class an image, found images with several"):
        one_class_an_image(LabelledImages(Path("root"), ("a", "b"), several, split([0]), card))
