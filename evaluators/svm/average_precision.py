"""Average precision as the VOC07 SVM benchmark computes it.

The reference is open-mmlab/OpenSelfSup@1db69ec benchmarks/svm_tools/svm_helper.py. scikit-learn's average precision is
another: it takes the precision at every positive image as it is, this one its envelope, so that it is never lower.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def average_precision(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """The area under the envelope of precision over recall, 0 to 1.

    The precision at a recall is the highest at that recall or beyond. Among equal scores the lower index comes first.

    Args:
        labels: N, above 0 for positive images, of which there must be at least one.
        scores: N, higher for more likely positive images.
    """
    positive = labels[np.argsort(-scores, kind="stable")] > 0
    assert positive.any(), "without a positive image there is no recall"
    precision = np.cumsum(positive) / np.arange(1, len(positive) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by the same step at every positive image, and nowhere else.
    return float(envelope[positive].mean())
