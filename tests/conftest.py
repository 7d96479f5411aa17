"""What every test runs under."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests use tiny models: more threads cost more than they give, and two cores are shared with child processes."""
    torch.set_num_threads(1)
