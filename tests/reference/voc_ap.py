"""PASCAL VOC's average precision, restated naively from the 2007 development kit's documentation (section 3.4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: whole pixels, both ends inside


def overlap(a: Box, b: Box) -> float:
    """Intersection over union in pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return both / (areas[0] + areas[1] - both)


def average_precision(
    detections: Sequence[tuple[str, float, Box]], truth: Mapping[str, Sequence[tuple[Box, bool]]], threshold: float
) -> float:
    """11-point AP (0 to 1) of one class.

    Args:
        detections: image, score, box.
        truth: for each image, boxes and whether they are difficult: these count neither for nor against.
        threshold: the overlap above which a detection may be right.
    """
    positives = sum(not difficult for objects in truth.values() for _, difficult in objects)
    taken: set[tuple[str, int]] = set()
    right, wrong, curve = 0, 0, []
    for image, _, box in sorted(detections, key=lambda detection: -detection[1]):
        overlaps = [overlap(box, other) for other, _ in truth[image]]
        best = max(range(len(overlaps)), key=lambda index: overlaps[index], default=None)
        if best is None or overlaps[best] <= threshold:
            wrong += 1
        elif truth[image][best][1]:
            pass
        elif (image, best) in taken:
            wrong += 1
        else:
            taken.add((image, best))
            right += 1
        curve.append((right / positives, right / max(right + wrong, 1)))
    total = 0.0
    for tenth in range(11):
        # In doubles, as the kit's `0:0.1:1`: 3 * 0.1 is a little more than 0.3, which a recall of 3/10 does not reach.
        total += max((precision for recall, precision in curve if recall >= tenth * 0.1), default=0.0)
    return total / 11
