"""Receipt: proof, before the first iteration, that the live model holds the backbone's weights and input settings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from converters.backbone import BATCH_COUNTER, fingerprint
from converters.errors import CheckFailed
from converters.metadata import BackboneMetadata, Preprocess
from converters.settings import Settings


class Receipt(Settings):
    """What was read back from the live model, and what it was compared with."""

    framework: str
    backbone: str
    """Fingerprint of the backbone that the run was given."""
    live: str
    """Fingerprint of the tensors read back from the model; equal to `backbone`, or there is no receipt."""
    tensors: int
    """How many tensors were read back: 265 for ResNet-50."""
    preprocess: Preprocess
    """The input settings read back from the model."""
    stride_in_1x1: bool
    after: str | None = None
    """Fingerprint after a frozen evaluation, equal to `backbone`; None where the weights are tuned."""


def check(
    metadata: BackboneMetadata,
    live: Mapping[str, Tensor],
    *,
    framework: str,
    preprocess: Preprocess,
    stride_in_1x1: bool,
) -> Receipt:
    """Compare a live model with the backbone it should hold.

    Args:
        metadata: the header of the backbone.
        live: the model's tensors under torchvision's names; batch counters may be absent.
        framework: where the model lives, for the message and the record.
        preprocess: the input settings read back from the model.
        stride_in_1x1: the stride position read back from the model.

    Raises:
        CheckFailed: if a tensor or an input setting differs.
    """
    found = fingerprint(live)
    if found != metadata.fingerprint:
        raise CheckFailed(
            f"receipt: the {framework} model does not hold the backbone: expected the fingerprint "
            f"{metadata.fingerprint[:12]}, found {found[:12]}"
        )
    if not same_input(preprocess, metadata.preprocess):
        raise CheckFailed(
            f"receipt: the {framework} model feeds the backbone other inputs: expected {metadata.preprocess}, "
            f"found {preprocess}"
        )
    if stride_in_1x1 != metadata.stride_in_1x1:
        raise CheckFailed(
            f"receipt: expected stride_in_1x1 {metadata.stride_in_1x1}, found {stride_in_1x1} in the {framework} model"
        )
    return Receipt(
        framework=framework,
        backbone=metadata.fingerprint,
        live=found,
        tensors=sum(not name.endswith(BATCH_COUNTER) for name in live),
        preprocess=preprocess,
        stride_in_1x1=stride_in_1x1,
    )


def still_frozen(receipt: Receipt, live: Mapping[str, Tensor]) -> Receipt:
    """The receipt completed after a frozen evaluation.

    Raises:
        CheckFailed: if a single bit of the backbone changed.
    """
    after = fingerprint(live)
    if after != receipt.backbone:
        raise CheckFailed(
            f"receipt: the frozen backbone changed during the evaluation: expected the fingerprint "
            f"{receipt.backbone[:12]}, found {after[:12]}"
        )
    return receipt.model_copy(update={"after": after})


def same_input(a: Preprocess, b: Preprocess) -> bool:
    """Whether two settings feed a network the same values, whatever the scale on which they are written."""

    def on_unit_scale(preprocess: Preprocess) -> list[float]:
        low, high = preprocess.value_range
        mean = [(value - low) / (high - low) for value in preprocess.mean]
        return mean + [value / (high - low) for value in preprocess.std]

    return a.channel_order == b.channel_order and all(
        math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-6) for x, y in zip(on_unit_scale(a), on_unit_scale(b), strict=True)
    )
