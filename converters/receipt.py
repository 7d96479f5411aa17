"""Receipt: proof, before the first iteration, that the live model holds the backbone's weights and input settings.

`detectron2_receipt`, `openmmlab_receipt` and `module_receipt` are meant for training scripts of any origin; mmengine's
runner takes `converters.receipt_hook.ReceiptHook` instead, because it loads the weights only when the training begins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from converters import families, files, keymap
from converters.architectures import ARCHITECTURES
from converters.errors import CheckFailed
from converters.fingerprint import BATCH_COUNTER, fingerprint
from converters.keymap import KeyMap
from converters.layers import check_layers
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

    def write(self, path: str | Path) -> None:
        """As indented JSON, whole or absent.

        Raises:
            UserError, CheckFailed: where it cannot be written (see `converters.files.faults_of`).
        """
        with files.whole(Path(path)) as partial:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


Given = BackboneMetadata | str | Path
"""What a live model should hold: the header, or any file from which this toolkit reads the backbone."""


def expected_of(given: Given) -> BackboneMetadata:
    """The header of what was given.

    Raises:
        UserError: if the file cannot be read as a backbone.
    """
    return given if isinstance(given, BackboneMetadata) else families.read(Path(given)).metadata


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


def module_receipt(module: nn.Module, backbone: Given, preprocess: Preprocess) -> Receipt:
    """The receipt of a torchvision ResNet, with or without a head.

    Args:
        module: the live model, wrapped for distributed training or not.
        backbone: what it should hold: a header, or a file of the backbone.
        preprocess: what the caller's transforms really apply.

    Raises:
        UserError: if the file cannot be read.
        CheckFailed: if a tensor or an input setting differs.
    """
    metadata = expected_of(backbone)
    names = keymap.torchvision(metadata.arch)
    return check(
        metadata,
        live_tensors(module, names),
        framework="torchvision",
        preprocess=preprocess,
        stride_in_1x1=live_stride_in_1x1(module, names, metadata.arch),
    )


def detectron2_receipt(model: nn.Module, cfg: Any, backbone: Given) -> Receipt:
    """The receipt of a detectron2 detector (C4 or FPN).

    Args:
        model: a live `GeneralizedRCNN` or the like, with `pixel_mean` and `pixel_std`.
        cfg: the configuration that its data loader was built from; `cfg.INPUT.FORMAT` is read.
        backbone: what it should hold: a header, or a file of the backbone, as the `.pkl` of its conversion.

    Raises:
        UserError: if the file cannot be read.
        CheckFailed: if a tensor or an input setting differs.
    """
    metadata = expected_of(backbone)
    model = unwrapped(model)
    place = keymap.detectron2_place(model.state_dict())
    if place is None:
        raise CheckFailed("receipt: the detectron2 model holds no ResNet (no tensor `stem.conv1.weight`)")
    names = keymap.detectron2(metadata.arch, place)
    order = str(cfg.INPUT.FORMAT)
    believed = getattr(model, "input_format", None)
    if order not in ("RGB", "BGR") or believed not in (None, order):
        raise CheckFailed(f"receipt: expected one channel order, found {order!r} fed to a model made for {believed!r}")
    return check(
        metadata,
        live_tensors(model, names),
        framework="detectron2",
        preprocess=_on_byte_scale(order, model.get_buffer("pixel_mean"), model.get_buffer("pixel_std")),
        stride_in_1x1=live_stride_in_1x1(model, names, metadata.arch),
    )


def openmmlab_receipt(model: nn.Module, backbone: Given, *, loaded_order: Literal["RGB", "BGR"]) -> Receipt:
    """The receipt of a model of mmsegmentation, mmdetection or mmpretrain with a plain `ResNet`.

    Args:
        model: a live model with `backbone` and `data_preprocessor`.
        backbone: what it should hold: a header, or a file of the backbone, as the `.pth` of its conversion.
        loaded_order: the channel order in which the data pipeline loads images; read it from the pipeline, as
            `converters.receipt_hook.loaded_order` does.

    Raises:
        UserError: if the file cannot be read.
        CheckFailed: if a tensor or an input setting differs.
    """
    metadata = expected_of(backbone)
    model = unwrapped(model)
    framework = type(model).__module__.partition(".")[0]
    names = keymap.mmseg(metadata.arch, "backbone")
    preprocessor: Any = model.data_preprocessor
    if not getattr(preprocessor, "_enable_normalize", False):
        raise CheckFailed(
            f"receipt: the {framework} model's data_preprocessor has no mean and std: its inputs are raw bytes"
        )
    # mmengine keeps one flag for both directions, mmpretrain its own: what matters is whether the order is swapped.
    swapped = getattr(preprocessor, "_channel_conversion", None)
    if swapped is None:
        swapped = preprocessor.to_rgb
    order = loaded_order[::-1] if swapped else loaded_order
    return check(
        metadata,
        live_tensors(model, names),
        framework=framework,
        preprocess=_on_byte_scale(order, preprocessor.mean, preprocessor.std),
        stride_in_1x1=live_stride_in_1x1(model, names, metadata.arch),
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DistributedDataParallel`, or itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def live_tensors(model: nn.Module, names: KeyMap) -> dict[str, Tensor]:
    """The backbone's tensors in a live model, under torchvision's names.

    Batch counters may be absent, as under a frozen batch norm.

    Raises:
        CheckFailed: if another tensor is absent, as under a wrong stem, or the ResNet has more tensors than these, as a
            deeper one does, which computes something else.
    """
    state = unwrapped(model).state_dict()
    live = {ours: state[theirs] for ours, theirs in names.names.items() if theirs in state}
    missing = [names.names[name] for name in names.names.keys() - live.keys() if not name.endswith(BATCH_COUNTER)]
    if missing:
        raise CheckFailed(
            f"receipt: expected the backbone's {len(names.names)} tensors in the {names.target} model, "
            f"found {len(live)}; absent are {len(missing)}, as {min(missing)}"
        )
    strange = [name for name in state if re.match(names.region, name) and name not in names.inverse]
    if strange:
        raise CheckFailed(
            f"receipt: expected the backbone's {len(names.names)} tensors alone in the ResNet of the {names.target} "
            f"model, found {len(strange)} others, as {min(strange)}"
        )
    return live


def live_stride_in_1x1(model: nn.Module, names: KeyMap, arch: str) -> bool:
    """Whether bottlenecks of a live model keep their stride in the first 1x1 convolution; read from the modules.

    Raises:
        CheckFailed: if the stages disagree, or other layers compute something else (see `converters.layers`).
    """
    check_layers(unwrapped(model), names, arch)
    if not ARCHITECTURES[arch].bottleneck:
        return False
    model = unwrapped(model)
    found: set[bool] = set()
    for layer in (2, 3, 4):
        for convolution in ("conv1", "conv2"):
            path = names.names[f"layer{layer}.0.{convolution}.weight"].removesuffix(".weight")
            stride: Any = model.get_submodule(path).stride
            if tuple(stride) != (1, 1):
                found.add(convolution == "conv1")
    if len(found) > 1:
        raise CheckFailed(f"receipt: the {names.target} model has strides in 1x1 and in 3x3 convolutions")
    return found == {True}


def _on_byte_scale(order: Any, mean: Tensor, std: Tensor) -> Preprocess:
    values = {"mean": tuple(mean.flatten().tolist()), "std": tuple(std.flatten().tolist())}
    try:
        return Preprocess(channel_order=order, **values, value_range=(0.0, 255.0))
    except ValidationError:
        raise CheckFailed(
            f"receipt: expected mean and std of three channels, each std above 0, found {values}"
        ) from None


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
