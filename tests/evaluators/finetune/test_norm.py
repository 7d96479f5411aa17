from __future__ import annotations

import torch
from torch import nn

from evaluators.finetune.norm import DeclaredBatchNorm2d, declare


def test_groups_of_images_are_normalised_apart() -> None:
    torch.manual_seed(0)
    x = torch.randn(11, 3, 5, 5) * 2 + 1
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with torch.no_grad():
        module[1].weight.uniform_()
        module[1].bias.uniform_()
    alone = nn.BatchNorm2d(3)
    alone.load_state_dict(module[1].state_dict())
    before = dict(module.named_parameters())
    declare(module, 4)
    assert isinstance(module[1], DeclaredBatchNorm2d)
    assert all(parameter is before[name] for name, parameter in module.named_parameters())
    found = module[1](x)
    first = alone(x[:4])
    # Its running statistics are those of the first group; the others are normalised by fresh copies.
    assert torch.equal(module[1].running_mean, alone.running_mean)
    assert torch.equal(module[1].running_var, alone.running_var)
    rest = [alone(x[4:8]), alone(x[8:])]
    torch.testing.assert_close(found, torch.cat([first, *rest]))
    module.eval()
    alone.load_state_dict(module[1].state_dict())
    assert torch.equal(module[1](x), alone.eval()(x))
