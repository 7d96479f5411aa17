"""The C4 head of the MoCo papers, registered in detectron2 under the name that the reference configurations use."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn

NAME = "Res5ROIHeadsExtraNorm"


class Res5ROIHeadsExtraNorm(Res5ROIHeads):  # type: ignore[misc]  # detectron2 ships no types
    """C4 head with one more normalisation behind res5 (arXiv:1911.05722, section 4.2, "feature normalization").

    Features of an unsupervised network may lie on another scale than those for which the hyper-parameters of detection
    were chosen. The new layer's tensors are `roi_heads.res5.norm.*`; the reference is facebookresearch/moco@7397dfe,
    detection/train_net.py.
    """

    @configurable  # type: ignore[untyped-decorator]  # likewise
    def __init__(self, *, extra_norm: nn.Module, res5: nn.Module, **kwargs: Any) -> None:
        super().__init__(res5=res5, **kwargs)
        self.res5.add_module("norm", extra_norm)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """The arguments of the constructor, with the norm that the ResNet has."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        channels = arguments["res5"][-1].out_channels
        arguments["extra_norm"] = get_norm(cfg.MODEL.RESNETS.NORM, channels)
        return arguments


# A second import under another module object (as a test runner may do) must not register twice.
if NAME not in ROI_HEADS_REGISTRY:
    ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
