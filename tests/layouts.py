"""Checkpoints in the layouts of the families, their names written out from the sources that `docs/formats.md` cites.

Widths are a ResNet-18's, heads are narrow; what a head, a queue or a buffer is called is the source's word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests import checkpoints

State = dict[str, Tensor]


def body(seed: int = 0, arch: str = "resnet18") -> State:
    """An encoder without head, under torchvision's names."""
    return {name: value for name, value in checkpoints.encoder(arch, seed).items() if not name.startswith("fc.")}


def under(prefix: str, state: State) -> State:
    """Every name behind a prefix."""
    return {prefix + name: value for name, value in state.items()}


def linear(*names: str, bias: bool = True) -> State:
    """A linear layer each."""
    state = {f"{name}.weight": torch.randn(3, 4) for name in names}
    return state | ({f"{name}.bias": torch.randn(3) for name in names} if bias else {})


def norm(*names: str, affine: bool = True) -> State:
    """A BatchNorm1d each."""
    state: State = {}
    for name in names:
        if affine:
            state |= {f"{name}.weight": torch.ones(3), f"{name}.bias": torch.zeros(3)}
        state |= {f"{name}.running_mean": torch.zeros(3), f"{name}.running_var": torch.ones(3)}
        state[f"{name}.num_batches_tracked"] = torch.tensor(5)
    return state


def pointer() -> Tensor:
    """Where a queue is written next."""
    return torch.zeros(1, dtype=torch.long)


def sgd() -> dict[str, Any]:
    """An optimizer's state with two momentum buffers, one of the first convolution's shape."""
    buffers = {0: {"momentum_buffer": torch.zeros(64, 3, 7, 7)}, 1: {"momentum_buffer": torch.zeros(64)}}
    return {"state": buffers, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


def sequential(state: State) -> State:
    """`Sequential(*list(resnet.children())[:-1])`: conv1 bn1 relu maxpool layer1..4 avgpool."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    renamed = {}
    for name, value in state.items():
        module, rest = name.split(".", 1)
        renamed[f"{numbers[module]}.{rest}"] = value
    return renamed


def feature_blocks(state: State) -> State:
    """VISSL's ModuleDict `_feature_blocks`, whose keys are torchvision's names."""
    return under("_feature_blocks.", state)


@dataclass(frozen=True)
class Case:
    """A file's content, and what reading it must give."""

    content: Callable[[], dict[str, Any]]
    family: str
    container: str
    prefix: str
    dropped: dict[str, int]
    encoder: str = ""
    """Of the default reading."""
    q: State = field(default_factory=body)
    k: State | None = None
    """The other encoder, where there is one."""
    k_prefix: str = ""
    k_container: str | None = None
    method: str = ""


Q, K = body(1), body(2)
N = len(Q)  # 120 of a ResNet-18


def _mocov3() -> dict[str, Any]:
    head = lambda who: (  # noqa: E731 - one line of a layout
        linear(f"{who}.fc.0", f"{who}.fc.3", bias=False) | norm(f"{who}.fc.1") | norm(f"{who}.fc.4", affine=False)
    )
    state = under("base_encoder.", Q) | head("base_encoder") | under("momentum_encoder.", K) | head("momentum_encoder")
    state |= linear("predictor.0", "predictor.3", bias=False) | norm("predictor.1")
    return {"epoch": 100, "arch": "resnet18", "state_dict": under("module.", state), "optimizer": sgd(), "scaler": {}}


def _simsiam() -> dict[str, Any]:
    head = linear("encoder.fc.0", "encoder.fc.3", bias=False) | norm("encoder.fc.1", "encoder.fc.4")
    head |= linear("encoder.fc.6") | norm("encoder.fc.7", affine=False)
    state = (
        under("encoder.", Q) | head | linear("predictor.0", bias=False) | norm("predictor.1") | linear("predictor.3")
    )
    return {"epoch": 100, "arch": "resnet18", "state_dict": under("module.", state), "optimizer": sgd()}


def _densecl() -> dict[str, Any]:
    """`backbone` is registered beside `encoder_q`, whose first entry it is."""
    neck = lambda who: linear(f"{who}.1.mlp.0", f"{who}.1.mlp.2", f"{who}.1.mlp2.0", f"{who}.1.mlp2.2")  # noqa: E731
    state = under("encoder_q.0.", Q) | neck("encoder_q") | under("encoder_k.0.", K) | neck("encoder_k")
    state |= under("backbone.", Q)
    state |= {"queue": torch.randn(3, 8), "queue_ptr": pointer(), "queue2": torch.randn(3, 8), "queue2_ptr": pointer()}
    return {"meta": {"epoch": 200, "iter": 1}, "state_dict": state, "optimizer": sgd()}


def _openselfsup_byol() -> dict[str, Any]:
    neck = lambda who: linear(f"{who}.1.fc0", f"{who}.1.fc1") | norm(f"{who}.1.bn0")  # noqa: E731
    state = under("online_net.0.", Q) | neck("online_net") | under("target_net.0.", K) | neck("target_net")
    state |= under("backbone.", Q) | linear("head.predictor.fc0", "head.predictor.fc1") | norm("head.predictor.bn0")
    return {"meta": {"epoch": 200}, "state_dict": state}


def _mmselfsup_0x() -> dict[str, Any]:
    """0.x registers the neck a second time too."""
    state = under("encoder_q.0.", Q) | linear("encoder_q.1.mlp.0", "encoder_q.1.mlp.2")
    state |= under("encoder_k.0.", K) | linear("encoder_k.1.mlp.0", "encoder_k.1.mlp.2")
    state |= under("backbone.", Q) | linear("neck.mlp.0", "neck.mlp.2")
    state |= {"queue": torch.randn(3, 8), "queue_ptr": pointer()}
    return {"meta": {}, "state_dict": state}


def _mmselfsup_1x() -> dict[str, Any]:
    state = under("backbone.", Q) | linear("neck.mlp.0", "neck.mlp.2")
    state |= under("encoder_k.module.0.", K) | linear("encoder_k.module.1.mlp.0", "encoder_k.module.1.mlp.2")
    state |= {"encoder_k.steps": torch.tensor(9), "queue": torch.randn(3, 8), "queue_ptr": pointer()}
    state["data_preprocessor.mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    state["data_preprocessor.std"] = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    return {"meta": {"epoch": 1}, "state_dict": state, "message_hub": {}, "optimizer": sgd()}


def _mmpretrain_swav() -> dict[str, Any]:
    state = under("backbone.", Q) | linear("neck.projection_neck.0", "neck.projection_neck.3")
    state |= norm("neck.projection_neck.1") | linear("head.loss_module.prototypes", bias=False)
    return {"meta": {}, "state_dict": state}


def _pycontrast(*, momentum: bool = True) -> dict[str, Any]:
    heads = linear("head.0", "head.2", "head_jig.fc1", "head_jig.fc2.0")
    content: dict[str, Any] = {
        "model": under("module.", under("encoder.", Q) | heads),
        "optimizer": sgd(),
        "epoch": 200,
    }
    if momentum:
        content["model_ema"] = under("encoder.", K) | heads
        content["contrast"] = {"params": torch.zeros(1), "memory": torch.randn(8, 3)}
    return content


def _solo(word: str) -> dict[str, Any]:
    state = under(f"{word}.", Q) | under(f"momentum_{word}.", K) | linear("classifier", "momentum_classifier")
    state |= linear("projector.0", "projector.2", "momentum_projector.0", "momentum_projector.2")
    state |= {"queue": torch.randn(2, 3, 8), "queue_ptr": pointer()}
    return {"epoch": 399, "global_step": 1, "state_dict": state, "optimizer_states": [sgd()], "lr_schedulers": [{}]}


def _solo_dino() -> dict[str, Any]:
    state = under("backbone.", Q) | under("momentum_backbone.", K) | linear("classifier")
    for head in ("head", "momentum_head"):
        state |= linear(f"{head}.mlp.0", f"{head}.mlp.2", f"{head}.mlp.4")
        state |= {f"{head}.last_layer.weight_g": torch.ones(3, 1), f"{head}.last_layer.weight_v": torch.ones(3, 4)}
    state["dino_loss_func.center"] = torch.zeros(1, 3)
    return {"epoch": 1, "state_dict": state}


def _solo_swav() -> dict[str, Any]:
    state = under("backbone.", Q) | linear("classifier", "projector.0", "projector.3") | norm("projector.1")
    state |= {"prototypes.weight_g": torch.ones(3, 1), "prototypes.weight_v": torch.ones(3, 4)}
    return {"epoch": 1, "state_dict": state | {"queue": torch.zeros(2, 4, 3)}}


def _lightly(*, query: str, key: str, heads: tuple[str, ...]) -> dict[str, Any]:
    state = under(f"{query}.", Q) | under(f"{key}.", K)
    for head in heads:
        state |= linear(f"{head}.layers.0", bias=False) | norm(f"{head}.layers.1") | linear(f"{head}.layers.3")
    state |= linear("online_classifier.classification_head")
    return {"epoch": 99, "state_dict": state, "optimizer_states": [sgd()]}


def _lightly_example() -> dict[str, Any]:
    state = under("backbone.", sequential(Q)) | under("backbone_momentum.", sequential(K))
    return state | linear("projection_head.layers.0", "projection_head_momentum.layers.0")


def _lightly_simclr() -> dict[str, Any]:
    return {"state_dict": under("backbone.", sequential(Q)) | linear("projection_head.layers.0")}


def _vissl() -> dict[str, Any]:
    model = {
        "trunk": feature_blocks(Q),
        "heads": linear("0.clf.0", "1.clf.0"),
    }
    loss = {"queue": torch.randn(3, 8), "queue_ptr": pointer()}
    loss |= under("moco_encoder.trunk.", feature_blocks(K)) | linear("moco_encoder.heads.0.clf.0")
    classy = {"base_model": {"model": model, "meta": {}}, "loss": loss, "optimizer": sgd(), "phase_idx": 3}
    return {"phase_idx": 3, "iteration": 7, "type": "phase_end", "classy_state_dict": classy}


def _vissl_swav() -> dict[str, Any]:
    model = {"trunk": feature_blocks(Q), "heads": linear("0.projection_head.0", "0.prototypes0")}
    loss = {"queue": torch.zeros(2, 4, 3), "embeddings": torch.zeros(4)}
    return {"classy_state_dict": {"base_model": {"model": model}, "loss": loss}}


def _dino() -> dict[str, Any]:
    head = linear("head.mlp.0", "head.mlp.2", "head.mlp.4")
    head |= {"head.last_layer.weight_g": torch.ones(3, 1), "head.last_layer.weight_v": torch.ones(3, 4)}
    student, teacher = (under("module.", under("backbone.", state) | head) for state in (Q, K))
    loss = {"center": torch.zeros(1, 3)}
    return {"student": student, "teacher": teacher, "optimizer": sgd(), "epoch": 800, "dino_loss": loss}


def _swav(wrapper: str = "module.") -> State:
    state = Q | linear("projection_head.0", "projection_head.3") | norm("projection_head.1")
    return under(wrapper, state | linear("prototypes", bias=False))


def _sthalles() -> dict[str, Any]:
    head = linear("projetion.net.0", "projetion.net.3") | norm("projetion.net.1")
    return {
        "online_network_state_dict": under("encoder.", sequential(Q)) | head,
        "target_network_state_dict": under("encoder.", sequential(K)) | head,
        "optimizer_state_dict": sgd(),
    }


def _lucidrains(wrapper: str = "") -> State:
    fc = linear("fc")
    state = (
        under("net.", Q | fc) | under("online_encoder.net.", Q | fc) | under("target_encoder.net.", K | linear("fc"))
    )
    for who in ("online_encoder.projector", "target_encoder.projector", "online_predictor"):
        state |= linear(f"{who}.0", f"{who}.3") | norm(f"{who}.1")
    return under(wrapper, state)


def _barlow() -> dict[str, Any]:
    state = under("backbone.", Q) | linear("projector.0", "projector.3", bias=False) | norm("projector.1")
    state |= norm("bn", affine=False)
    return {"epoch": 1000, "model": under("module.", state), "optimizer": sgd()}


def _timm() -> dict[str, Any]:
    return {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": Q | linear("fc"),
        "state_dict_ema": K | linear("fc"),
        "optimizer": sgd(),
        "version": 2,
        "metric": 70.1,
    }


_STATE = {"training state": 2}

CASES: dict[str, Case] = {
    "mocov3": Case(
        _mocov3,
        "mocov3",
        "state_dict",
        "module.base_encoder.",
        {"key encoder": N + 10, "projection head": 10, "predictor": 7, **_STATE},
        "q",
        Q,
        K,
        "module.momentum_encoder.",
        method="MoCo v3",
    ),
    "simsiam": Case(
        _simsiam,
        "simsiam",
        "state_dict",
        "module.encoder.",
        {"projection head": 17, "predictor": 8, **_STATE},
        q=Q,
        method="SimSiam",
    ),
    "densecl raw": Case(
        _densecl,
        "openselfsup",
        "state_dict",
        "backbone.",
        {"alias": N, "key encoder": N, "projection head": 16, "queue": 4, **_STATE},
        "q",
        Q,
        K,
        "encoder_k.0.",
        method="DenseCL",
    ),
    "densecl extracted": Case(
        lambda: {"state_dict": dict(Q), "author": "DenseCL"}, "openselfsup", "state_dict", "", {}, q=Q
    ),
    "openselfsup byol": Case(
        _openselfsup_byol,
        "openselfsup",
        "state_dict",
        "backbone.",
        {"alias": N, "key encoder": N, "projection head": 18, "predictor": 9},
        "q",
        Q,
        K,
        "target_net.0.",
        method="BYOL",
    ),
    "mmselfsup 0.x": Case(
        _mmselfsup_0x,
        "openselfsup",
        "state_dict",
        "backbone.",
        {"alias": N, "key encoder": N, "projection head": 12, "queue": 2},
        "q",
        Q,
        K,
        "encoder_k.0.",
        method="MoCo",
    ),
    "mmselfsup 1.x": Case(
        _mmselfsup_1x,
        "mmpretrain",
        "state_dict",
        "backbone.",
        {"key encoder": N, "projection head": 8, "queue": 2, "data preprocessor": 2, "training state": 3},
        "q",
        Q,
        K,
        "encoder_k.module.0.",
        method="MoCo",
    ),
    "mmpretrain swav": Case(
        _mmpretrain_swav, "mmpretrain", "state_dict", "backbone.", {"projection head": 9, "prototypes": 1}, q=Q
    ),
    "mmpretrain classifier": Case(
        lambda: {"meta": {}, "state_dict": under("backbone.", Q) | linear("head.fc")},
        "mmpretrain",
        "state_dict",
        "backbone.",
        {"classifier": 2},
        q=Q,
    ),
    "pycontrast moco": Case(
        _pycontrast,
        "pycontrast",
        "model",
        "module.encoder.",
        {"key encoder": N, "projection head": 8, "jigsaw head": 8, "memory bank": 2, **_STATE},
        "q",
        Q,
        K,
        "encoder.",
        "model_ema",
    ),
    "pycontrast": Case(
        lambda: _pycontrast(momentum=False),
        "pycontrast",
        "model",
        "module.encoder.",
        {"projection head": 4, "jigsaw head": 4, **_STATE},
        q=Q,
    ),
    "solo-learn": Case(
        lambda: _solo("backbone"),
        "solo-learn",
        "state_dict",
        "backbone.",
        {"key encoder": N, "projection head": 8, "classifier": 4, "queue": 2, **_STATE},
        "q",
        Q,
        K,
        "momentum_backbone.",
    ),
    "solo-learn of 2021": Case(
        lambda: _solo("encoder"),
        "solo-learn",
        "state_dict",
        "encoder.",
        {"key encoder": N, "projection head": 8, "classifier": 4, "queue": 2, **_STATE},
        "q",
        Q,
        K,
        "momentum_encoder.",
    ),
    "solo-learn dino": Case(
        _solo_dino,
        "solo-learn",
        "state_dict",
        "backbone.",
        {"key encoder": N, "projection head": 16, "classifier": 2, "loss": 1},
        "q",
        Q,
        K,
        "momentum_backbone.",
    ),
    "solo-learn swav": Case(
        _solo_swav,
        "solo-learn",
        "state_dict",
        "backbone.",
        {"projection head": 9, "classifier": 2, "prototypes": 2, "queue": 1},
        q=Q,
    ),
    "lightly moco": Case(
        lambda: _lightly(query="backbone", key="key_backbone", heads=("projection_head", "key_projection_head")),
        "lightly",
        "state_dict",
        "backbone.",
        {"key encoder": N, "projection head": 16, "classifier": 2, **_STATE},
        "q",
        Q,
        K,
        "key_backbone.",
    ),
    "lightly moco of 2023": Case(
        lambda: _lightly(query="query_backbone", key="backbone", heads=("projection_head", "query_projection_head")),
        "lightly",
        "state_dict",
        "query_backbone.",
        {"query encoder": N, "projection head": 16, "classifier": 2, **_STATE},
        "k",
        Q,
        K,
        "backbone.",
    ),
    "lightly dino": Case(
        lambda: _lightly(
            query="student_backbone", key="backbone", heads=("projection_head", "student_projection_head")
        ),
        "lightly",
        "state_dict",
        "student_backbone.",
        {"query encoder": N, "projection head": 16, "classifier": 2, **_STATE},
        "k",
        Q,
        K,
        "backbone.",
    ),
    "lightly byol": Case(
        lambda: _lightly(
            query="backbone",
            key="teacher_backbone",
            heads=("projection_head", "teacher_projection_head", "prediction_head"),
        ),
        "lightly",
        "state_dict",
        "backbone.",
        {"key encoder": N, "projection head": 16, "predictor": 8, "classifier": 2, **_STATE},
        "q",
        Q,
        K,
        "teacher_backbone.",
    ),
    "lightly example": Case(
        _lightly_example,
        "lightly",
        "",
        "backbone.",
        {"key encoder": N, "projection head": 4},
        "q",
        Q,
        K,
        "backbone_momentum.",
    ),
    "lightly simclr": Case(_lightly_simclr, "lightly", "state_dict", "backbone.", {"projection head": 2}, q=Q),
    "vissl moco": Case(
        _vissl,
        "vissl",
        "classy_state_dict.base_model.model.trunk",
        "_feature_blocks.",
        {"key encoder": N, "projection head": 6, "queue": 2, **_STATE},
        "q",
        Q,
        K,
        "moco_encoder.trunk._feature_blocks.",
        "classy_state_dict.loss",
    ),
    "vissl swav": Case(
        _vissl_swav,
        "vissl",
        "classy_state_dict.base_model.model.trunk",
        "_feature_blocks.",
        {"projection head": 4, **_STATE},
        q=Q,
    ),
    "vissl extracted": Case(
        lambda: {"model_state_dict": feature_blocks(Q)}, "vissl", "model_state_dict", "_feature_blocks.", {}, q=Q
    ),
    "dino": Case(
        _dino,
        "dino",
        "student",
        "module.backbone.",
        {"query encoder": N, "projection head": 16, "loss": 1, **_STATE},
        "k",
        Q,
        K,
        "module.backbone.",
        "teacher",
        method="DINO",
    ),
    "dino flat": Case(lambda: dict(Q), "torchvision", "", "", {}, q=Q),
    "swav": Case(_swav, "swav", "", "module.", {"projection head": 9, "prototypes": 1}, q=Q, method="SwAV"),
    "swav in training": Case(
        lambda: {"epoch": 5, "state_dict": _swav(), "optimizer": sgd()},
        "swav",
        "state_dict",
        "module.",
        {"projection head": 9, "prototypes": 1, **_STATE},
        q=Q,
        method="SwAV",
    ),
    "byol of sthalles": Case(
        _sthalles,
        "pytorch-byol",
        "online_network_state_dict",
        "encoder.",
        {"key encoder": N, "projection head": 18, **_STATE},
        "q",
        Q,
        K,
        "encoder.",
        "target_network_state_dict",
        method="BYOL",
    ),
    "byol of lucidrains": Case(
        _lucidrains,
        "byol-pytorch",
        "",
        "online_encoder.net.",
        {"key encoder": N + 2, "alias": N + 2, "classifier": 2, "projection head": 18, "predictor": 9},
        "q",
        Q,
        K,
        "target_encoder.net.",
        method="BYOL",
    ),
    "byol of lucidrains in lightning": Case(
        lambda: {"state_dict": _lucidrains("learner.")},
        "byol-pytorch",
        "state_dict",
        "learner.online_encoder.net.",
        {"key encoder": N + 2, "alias": N + 2, "classifier": 2, "projection head": 18, "predictor": 9},
        "q",
        Q,
        K,
        "learner.target_encoder.net.",
        method="BYOL",
    ),
    "barlow twins in training": Case(
        _barlow,
        "barlowtwins",
        "model",
        "module.backbone.",
        {"projection head": 7, "loss": 3, **_STATE},
        q=Q,
        method="Barlow Twins",
    ),
    "torchvision under DistributedDataParallel": Case(
        lambda: {"epoch": 90, "state_dict": under("module.", Q | linear("fc")), "best_acc1": torch.tensor(70.0)},
        "torchvision",
        "state_dict",
        "module.",
        {"classifier": 2, "training state": 1},
        q=Q,
    ),
    "timm with an average": Case(
        _timm,
        "timm",
        "state_dict",
        "",
        {"query encoder": N, "classifier": 4, **_STATE},
        "k",
        Q,
        K,
        "",
        "state_dict_ema",
    ),
}


def numpy_state(state: State) -> dict[str, np.ndarray[Any, Any]]:
    """As arrays, which a pickle for detectron2 holds."""
    return {name: value.numpy() for name, value in state.items()}
