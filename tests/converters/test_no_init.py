from __future__ import annotations

import torch
from torch import nn

from converters.no_init import zeros_for_draws


def test_draws_become_zeros_and_the_random_state_stays() -> None:
    before = torch.get_rng_state()
    with zeros_for_draws():
        convolution, linear, norm = nn.Conv2d(3, 4, 3), nn.Linear(3, 4), nn.BatchNorm2d(4)
        drawn = torch.empty(1000).fill_(9)
        for draw in (nn.init.kaiming_normal_, nn.init.xavier_uniform_):
            draw(convolution.weight)
            assert not convolution.weight.any()
        nn.init.trunc_normal_(drawn)
        nn.init.constant_(linear.bias, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert not drawn.any()
    assert not linear.weight.any()
    assert linear.bias.eq(3).all()
    assert norm.weight.eq(1).all()
    assert norm.running_var.eq(1).all()


def test_afterwards_draws_are_draws() -> None:
    with zeros_for_draws():
        pass
    assert nn.Linear(3, 4).weight.any()
