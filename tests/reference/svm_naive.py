"""Average precision under the precision envelope, by its definition: one recall level after another.

After the arithmetic of open-mmlab/OpenSelfSup@1db69ec benchmarks/svm_tools/svm_helper.py.
"""

from __future__ import annotations

from collections.abc import Sequence


def average_precision(labels: Sequence[int], scores: Sequence[float]) -> float:
    ranking = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    points = []  # (recall, precision) behind each image
    positives = sum(label > 0 for label in labels)
    found = 0
    for seen, i in enumerate(ranking, start=1):
        found += labels[i] > 0
        points.append((found / positives, found / seen))
    area, reached = 0.0, 0.0
    for recall, _ in points:
        if recall > reached:
            area += (recall - reached) * max(precision for other, precision in points if other >= recall)
            reached = recall
    return area
