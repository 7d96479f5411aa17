"""The live backbone that must not change, with its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from converters.backbone import Backbone
from converters.receipt import Receipt, module_receipt, still_frozen
from evaluators.images import Transform, read_back


@dataclass(frozen=True)
class Frozen:
    """A live backbone that must not change, and the proof that it is the right one."""

    module: nn.Module
    """N×3×H×W -> N×D, in eval mode, nothing trainable."""
    receipt: Receipt

    def still_frozen(self) -> Receipt:
        """The receipt completed after the evaluation.

        Raises:
            CheckFailed: if a single bit of the backbone changed.
        """
        return still_frozen(self.receipt, self.module.state_dict())


def freeze(backbone: Backbone, device: torch.device, transforms: Sequence[Transform]) -> Frozen:
    """The backbone as a live torchvision module on `device`, checked before it sees an image.

    Args:
        backbone: the weights and the input that they want.
        device: where it shall run.
        transforms: all transforms through which images will reach it; each is measured.

    Raises:
        CheckFailed: if the live tensors, the stride position or what a transform does differ from the backbone.
    """
    module = backbone.module().to(device).requires_grad_(requires_grad=False).eval()
    receipts = [module_receipt(module, backbone.metadata, read_back(transform)) for transform in transforms]
    return Frozen(module=module, receipt=receipts[0])
