"""Which class each image has, and which training images are held out for a choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converters.errors import UserError
from evaluators.datasets.labelled import LabelledImages, Split


def one_class_an_image(data: LabelledImages) -> None:
    """Refuse labels that a softmax over the classes cannot be trained on.

    Raises:
        UserError: for images with several classes, or a label that is no index of a class.
    """
    for split in (data.train, data.val):
        if split.labels.ndim != 1:
            raise UserError(
                expected="one class an image",
                found="images with several",
                where=f"{data.root} {split.name}",
                cure="choose a protocol for images with several classes, as svm-voc07@1",
            )
        wrong = np.flatnonzero((split.labels < 0) | (split.labels >= len(data.classes)))
        if wrong.size:
            first = split[int(wrong[0])]
            raise UserError(
                expected=f"labels from 0 to {len(data.classes) - 1}",
                found=f"{wrong.size} others, the first {first.label}",
                where=first.path,
                cure="correct the list of labels",
            )


def hold_out(split: Split, share: float, seed: int, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The training images that stay and those held out, as sorted indices: stratified by class.

    Of a class with m images, share·m are held out, rounded to the nearest, but one at least and m - 1 at most: a class
    with one image keeps it for training, and nothing is held out of it.

    Args:
        split: N images with one class each.
        share: of each class.
        seed: which images.
        num_classes: C.

    Raises:
        UserError: for a class without any image, or where no class has two.
    """
    counts = np.bincount(split.labels, minlength=num_classes)
    if (counts == 0).any():
        raise UserError(
            expected="training images of every class",
            found=f"none of {int((counts == 0).sum())} classes, the first has index {int(np.argmin(counts))}",
            where=split.name,
            cure="add images or remove the classes",
        )
    if counts.max() < 2:
        raise UserError(
            expected="a class with two training images, so that one can be held out",
            found="one image in each class",
            where=split.name,
            cure="use a protocol that chooses nothing, as linear-moco@1",
        )
    wanted = np.clip(np.rint(share * counts).astype(np.int64), 1, None)
    wanted = np.minimum(wanted, counts - 1)
    shuffled = np.random.default_rng(seed).permutation(len(split))
    # Stable: within a class the images stay in the shuffled order.
    by_class = shuffled[np.argsort(split.labels[shuffled], kind="stable")]
    first = np.concatenate(([0], np.cumsum(counts)[:-1]))
    out = np.sort(np.concatenate([by_class[a : a + w] for a, w in zip(first, wanted, strict=True)]))
    kept = np.ones(len(split), dtype=bool)
    kept[out] = False
    return np.flatnonzero(kept), out
