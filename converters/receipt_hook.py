"""The receipt in a run of mmengine: a hook that takes it before iteration 0 and stops the run where it does not hold.

In a configuration: `custom_imports = dict(imports=["converters.receipt_hook"])` and
`custom_hooks = [dict(type="ReceiptHook", backbone="moco.pth")]`; in a script: `runner.register_hook(ReceiptHook(...))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mmcv.transforms import LoadImageFromFile
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from pydantic import ValidationError

from converters.errors import CheckFailed
from converters.receipt import Given, Receipt, expected_of, openmmlab_receipt

FILE = "receipt.json"
"""The receipt's name in the run's folder."""


@HOOKS.register_module()
class ReceiptHook(Hook):  # type: ignore[misc]  # mmengine ships no types
    """Takes the receipt before the first iteration and writes it to `receipt.json` in the run's folder.

    A run that goes on from a checkpoint of its own holds tuned weights, so its receipt is the one of its beginning.

    Args:
        backbone: what the model should hold: a file of the backbone, as the `.pth` of its conversion, or a header.
        keep_order: class names of your own pipeline steps that leave the order of the channels alone.

    Raises:
        UserError: in `before_train`, if the file cannot be read.
        CheckFailed: in `before_train`, if a tensor or an input setting differs, the order of the channels is not known,
            or a resumed run has no receipt of this backbone.
    """

    def __init__(self, backbone: Given, keep_order: Sequence[str] = ()) -> None:
        self._backbone, self._keep_order = backbone, tuple(keep_order)
        self.receipt: Receipt | None = None

    def before_train(self, runner: Any) -> None:
        """The last moment before iteration 0."""
        path = Path(runner.work_dir) / FILE
        if runner.iter > 0:
            self.receipt = _of_its_beginning(path, runner.iter, expected_of(self._backbone).fingerprint)
            return
        order = loaded_order(runner.train_dataloader.dataset, self._keep_order)
        self.receipt = openmmlab_receipt(runner.model, self._backbone, loaded_order=order)
        if is_main_process():
            self.receipt.write(path)


def _of_its_beginning(path: Path, iteration: int, fingerprint: str) -> Receipt:
    if not path.is_file():
        raise CheckFailed(
            f"receipt: {path}: expected the receipt of this run's beginning, found none: it goes on from "
            f"iteration {iteration}, and nothing proves what it began with"
        )
    try:
        found = Receipt.model_validate_json(path.read_bytes())
    except ValidationError:
        raise CheckFailed(f"receipt: {path}: expected a receipt, found another or damaged file") from None
    if found.backbone != fingerprint:
        raise CheckFailed(
            f"receipt: {path}: expected a run that began with the backbone {fingerprint[:12]}, found one that began "
            f"with {found.backbone[:12]}"
        )
    return found


_KEEP_ORDER = {
    "CenterCrop",
    "FilterAnnotations",
    "LoadAnnotations",
    "PackDetInputs",
    "PackInputs",
    "PackSegInputs",
    "Pad",
    "RandomChoiceResize",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "RandomResizedCrop",
    "Resize",
    "ResizeEdge",
}
"""OpenMMLab's steps that change no order of channels and no scale; so does mmseg's PhotoMetricDistortion, whereas
mmdet's shuffles the channels at random."""


def _keeps_order(step: Any) -> bool:
    package, name = type(step).__module__.partition(".")[0], type(step).__name__
    if name == "PhotoMetricDistortion":
        return package == "mmseg"
    return name in _KEEP_ORDER and package in ("mmcv", "mmdet", "mmpretrain", "mmseg")


def loaded_order(dataset: Any, keep_order: Sequence[str] = ()) -> Literal["BGR"]:
    """The channel order in which a live data set's pipeline delivers images.

    mmcv decodes `color` to BGR with cv2 and with pillow (mmcv 2.1, mmcv/image/io.py, imfrombytes).

    Args:
        dataset: of mmseg, mmdet or mmpretrain, or a wrapper of some.
        keep_order: class names of further steps that leave the order alone.

    Raises:
        CheckFailed: for a reader or a step whose order is not known.
    """
    parts = [dataset.dataset] if hasattr(dataset, "dataset") else [*getattr(dataset, "datasets", ())]
    pipeline = getattr(dataset, "pipeline", ())  # a Compose, or a list of what mixes several images
    steps = [*getattr(pipeline, "transforms", pipeline)]
    if parts:
        for part in parts:
            loaded_order(part, keep_order)
    else:
        reader: Any = steps.pop(0) if steps else None
        # Subclasses read other things, as arrays in memory, whose order nobody knows.
        known = type(reader) is LoadImageFromFile and reader.imdecode_backend in ("cv2", "pillow")
        if not known or reader.color_type != "color":
            raise CheckFailed(
                f"receipt: expected images loaded in colour by cv2 or pillow, which is BGR, found {reader!r}"
            )
    unknown = [step for step in steps if type(step).__name__ not in keep_order and not _keeps_order(step)]
    if unknown:
        raise CheckFailed(f"receipt: expected steps that keep the channel order, found {unknown[0]!r}")
    return "BGR"
