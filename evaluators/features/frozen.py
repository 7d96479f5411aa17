"""The live backbone that must not change, with its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from converters.backbone import Backbone
from converters.distributed import together
from converters.receipt import Receipt, module_receipt, still_frozen
from evaluators.features import network
from evaluators.features.layers import Layer
from evaluators.features.network import Network
from evaluators.images import Transform, read_back


@dataclass(frozen=True)
class Frozen:
    """A live backbone that must not change, and the proof that it is the right one."""

    module: nn.Module
    """N×3×H×W -> N×D, in eval mode, nothing trainable."""
    receipt: Receipt

    networks: list[Network] = field(default_factory=list)
    """The copies in use, which compute in the module's place."""

    def prepare(self, head: nn.Module | None, layers: Sequence[Layer], *, precision: str, sample: Tensor) -> Network:
        """A copy that computes these layers and that `still_frozen` proves too; see `network.prepare`."""
        net = network.prepare(self.module, head, layers, precision=precision, sample=sample)
        self.networks.append(net)
        return net

    def still_frozen(self) -> Receipt:
        """The receipt completed after the evaluation. Every process of a group must call it.

        Raises:
            CheckFailed: in all processes, if in any of them a single bit of the backbone or of a copy in use changed,
                or if a copy computes something else than when it was held against the backbone.
        """
        return together(self._unchanged)

    def _unchanged(self) -> Receipt:
        for net in self.networks:
            net.prove_unchanged()
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
