from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from evaluators.by_products import margins


def test_margins_are_differences_of_probabilities() -> None:
    logits = torch.tensor([[math.log(6.0), math.log(3.0), 0.0], [0.0, math.log(8.0), 0.0], [2.0, 1.0, 0.0]])
    predicted, labels = np.array([0, 1, 0]), np.array([1, 2, 0])
    expected = [0.6 - 0.3, 0.8 - 0.1, 0.0]
    assert margins(logits, predicted, labels).tolist() == pytest.approx(expected)
    assert margins(logits, predicted, labels, block=2).tolist() == pytest.approx(expected)
