"""That the layers around a live backbone's tensors compute what its ResNet computes.

Right weights in other layers are another network: another epsilon of the batch norm, a deformable convolution, no
pooling, one more module. The strides and dilations of stages are left to the protocol, because segmentation sets them;
what cannot be meant is refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from converters.architectures import ARCHITECTURES, Architecture
from converters.errors import CheckFailed
from converters.keymap import KeyMap, Stage, stage_of

EPSILON = 1e-5
"""Of every batch norm of these ResNets, in torchvision and in each framework's default."""

_CONVOLUTIONS = {"torch.nn.modules.conv.Conv2d", "detectron2.layers.wrappers.Conv2d"}
_NORMS = {"BatchNorm2d", "SyncBatchNorm", "NaiveSyncBatchNorm", "FrozenBatchNorm2d", "GroupedBatchNorm2d"}
_OTHERS = {"BasicBlock", "BasicStem", "Bottleneck", "BottleneckBlock", "Identity", "ReLU", "ResLayer", "Sequential"}
_AUTHORS = {
    "torch",
    "torchvision",
    "timm",
    "detectron2",
    "mmengine",
    "mmcv",
    "mmseg",
    "mmdet",
    "mmpretrain",
    "pretrain",
}
"""Top-level packages whose classes of these names are known to compute what the names say."""

_ACTIVATIONS = {"relu", "act1", "act2", "act3"}
_PARTS = (
    "conv1",
    "bn1",
    "relu",
    "act1",
    "maxpool",
    "stem",
    *(f"layer{i}" for i in range(1, 5)),
    "res2",
    "res3",
    "res4",
)


def check_layers(model: nn.Module, names: KeyMap, arch: str, *, without: tuple[Stage, ...] = ()) -> None:
    """Look at every module of a live ResNet.

    Args:
        model: the model, not wrapped, that has the tensors of `names`.
        names: where they are.
        arch: the backbone's architecture.
        without: stages that it does not have, as `res5`.

    Raises:
        CheckFailed: naming the first module that is not as it should be.
    """
    first = names.names["conv1.weight"].removesuffix("conv1.weight").removesuffix("stem.")
    last = names.names["layer4.0.conv1.weight"].removesuffix(".0.conv1.weight")
    places = {*(first + part for part in _PARTS), last}
    modules = dict(model.named_modules())
    convolutions = {names.names[name].removesuffix(".weight"): name for name in names.names if _is_convolution(name)}
    norms = {theirs.removesuffix(".weight") for ours, theirs in names.names.items() if ours.endswith("weight")}
    norms -= convolutions.keys()
    for path, module in modules.items():
        # The norm behind res5 is the detector's (MoCo v1, section 4.2).
        if path == f"{last}.norm" or not any(path == place or path.startswith(f"{place}.") for place in places):
            continue
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            _refuse(names, path, "a module without hooks", "one with; register them after the receipt was taken")
        if path in convolutions:
            _check_convolution(names, path, module, convolutions[path], ARCHITECTURES[arch])
        elif path in norms:
            _known(names, path, module, _NORMS, "a batch norm")
            if getattr(module, "eps", None) != EPSILON:
                _refuse(names, path, f"eps {EPSILON:g}", f"{getattr(module, 'eps', None)}")
        else:
            _check_other(names, path, module)
    for part in ("relu", "maxpool"):
        alternatives = {first + part, first + "stem"} | ({first + "act1"} if part == "relu" else set())
        if not alternatives & modules.keys():
            _refuse(names, first + part, "one", "none")
    _check_strides(names, modules, ARCHITECTURES[arch], without)


def _is_convolution(name: str) -> bool:
    return name.endswith(".weight") and ("conv" in name.rsplit(".", 2)[-2] or name.endswith("downsample.0.weight"))


def _check_convolution(names: KeyMap, path: str, module: Any, name: str, arch: Architecture) -> None:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if kind not in _CONVOLUTIONS:
        _refuse(names, path, "a plain convolution", kind)
    if getattr(module, "activation", None) is not None:
        _refuse(names, path, "no activation in a convolution", repr(module.activation))
    side = module.kernel_size[0]
    dilation = module.dilation[0] if name != "conv1.weight" and side == 3 else 1
    grouped = arch.bottleneck and name.endswith(".conv2.weight")
    expected = {
        "padding": (side // 2 * dilation,) * 2,
        "dilation": (dilation,) * 2,
        "padding_mode": "zeros",
        "groups": arch.groups if grouped else 1,
    }
    for what, value in expected.items():
        found = getattr(module, what)
        if found != value:
            _refuse(names, path, f"{what} {value}", str(found))


def _check_other(names: KeyMap, path: str, module: nn.Module) -> None:
    part = path.rsplit(".", 1)[-1]
    if part == "maxpool":
        pool: Any = module
        settings = [getattr(pool, what, None) for what in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
        if type(module) is not nn.MaxPool2d or settings != [3, 2, 1, 1, False]:
            _refuse(names, path, "a max pooling of 3x3 with stride 2 and padding 1", repr(module))
    elif part in _ACTIVATIONS:
        if type(module) is not nn.ReLU:
            _refuse(names, path, "ReLU", repr(module))
    else:
        _known(names, path, module, _OTHERS, "a part of a ResNet")


def _known(names: KeyMap, path: str, module: nn.Module, classes: set[str], what: str) -> None:
    kind = type(module)
    if kind.__name__ not in classes or kind.__module__.partition(".")[0] not in _AUTHORS:
        _refuse(names, path, what, f"{kind.__module__}.{kind.__qualname__}")


def _check_strides(names: KeyMap, modules: dict[str, Any], arch: Architecture, without: tuple[Stage, ...]) -> None:
    """The stem halves, res2 keeps, the others keep or halve, once each and in both branches alike."""

    def stride(name: str) -> int:
        found = modules[names.names[f"{name}.weight"].removesuffix(".weight")].stride
        if found not in ((1, 1), (2, 2)):
            _refuse(names, name, "stride 1 or 2", str(found))
        return int(found[0])

    if stride("conv1") != 2:
        _refuse(names, names.names["conv1.weight"], "stride 2", "1")
    for layer, blocks in enumerate(arch.blocks, start=1):
        if stage_of(f"layer{layer}.0") in without:
            continue
        for block in range(blocks):
            place = f"layer{layer}.{block}"
            first, second = stride(f"{place}.conv1"), stride(f"{place}.conv2")
            third = stride(f"{place}.conv3") if arch.bottleneck else 1
            allowed = {1, 2} if layer > 1 and block == 0 else {1}
            total = first * second * third
            if total not in allowed:
                _refuse(names, place, f"stride {' or '.join(map(str, sorted(allowed)))}", str(total))
            shortcut = f"{place}.downsample.0"
            if f"{shortcut}.weight" in names.names and stride(shortcut) != total:
                _refuse(names, place, f"stride {total} in the shortcut too", str(stride(shortcut)))


def _refuse(names: KeyMap, path: str, expected: str, found: str) -> None:
    raise CheckFailed(
        f"receipt: {path} of the {names.target} model: expected {expected}, found {found}: with the same weights it "
        "computes something else"
    )
