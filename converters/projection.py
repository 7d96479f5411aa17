"""The projection head on pooled res5, kept in a file beside the backbone and outside its fingerprint.

kNN on the 128-d embedding needs it; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters import files
from converters.errors import UserError
from converters.fingerprint import fingerprint
from converters.metadata import HEAD_FORMAT, HEAD_VERSION, head_beside, read_head_fingerprint

_LAYERS = {
    frozenset(prefix + name for prefix in prefixes for name in ("weight", "bias")): prefixes
    for prefixes in (("",), ("0.", "2."))
}
"""The names of v1's and v2's tensors -> what the names of their layers begin with."""


@dataclass(frozen=True)
class ProjectionHead:
    """MoCo's head: one linear layer (v1), or two with a ReLU between them (v2); moco@7397dfe, moco/builder.py.

    Raises:
        UserError: on construction, if a value is not finite.
    """

    tensors: Mapping[str, Tensor]
    """Named as in `nn.Linear`, or in `nn.Sequential(Linear, ReLU, Linear)`; float32."""
    where: str = ""
    """The file that it came from, for messages."""

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise UserError(
                    expected="finite weights", found=f"NaN or infinity in {name} of the head", where=self.where
                )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over its tensors, as that of a backbone."""
        return fingerprint(self.tensors)

    def module(self) -> nn.Module:
        """N×D -> N×128, in eval mode, not normalised: the embedding is its result divided by its L2 norm."""
        layers = [self._linear(name) for name in _LAYERS[frozenset(self.tensors)]]
        module = layers[0] if len(layers) == 1 else nn.Sequential(layers[0], nn.ReLU(), layers[1])
        return module.requires_grad_(requires_grad=False).eval()

    def _linear(self, prefix: str) -> nn.Linear:
        weight, bias = self.tensors[prefix + "weight"], self.tensors[prefix + "bias"]
        with torch.device("meta"):
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
        return layer

    def save(self, path: Path, backbone: str) -> None:
        """Write it for the backbone with this fingerprint: whole or absent.

        Raises:
            UserError, CheckFailed: see `converters.files.faults_of`.
        """
        header = {
            "format": HEAD_FORMAT,
            "version": str(HEAD_VERSION),
            "backbone": backbone,
            "fingerprint": self.fingerprint,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with files.whole(path) as partial:
            mode = partial.stat().st_mode  # safetensors lets the owner alone read what it writes
            save_file(tensors, partial, header)
            partial.chmod(mode)


def recognised(tensors: Mapping[str, Tensor], feature_dim: int, where: str) -> ProjectionHead | None:
    """The head of these tensors (names behind `fc.`), or None if they are not MoCo's on D features.

    Raises:
        UserError: if a value is not finite.
    """
    layers = _LAYERS.get(frozenset(tensors), ())
    width = feature_dim
    for layer in layers:
        weight, bias = tensors[layer + "weight"], tensors[layer + "bias"]
        if weight.dtype != torch.float32 or bias.dtype != torch.float32:
            return None
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            return None
        width = len(weight)
    # A copy of its own: the file's tensors are mapped from disk.
    return ProjectionHead({name: tensors[name].detach().clone() for name in sorted(tensors)}, where) if layers else None


def load_beside(backbone: Path, fingerprint_: str, feature_dim: int) -> ProjectionHead | None:
    """The head beside a backbone file; None where there is none.

    Raises:
        UserError: if it is damaged, or belongs to another backbone.
    """
    named = read_head_fingerprint(backbone, fingerprint_)
    if named is None:
        return None
    path = head_beside(backbone)
    cure = "convert the checkpoint again, or remove this file"
    try:
        head = recognised(load_file(path), feature_dim, str(path))
    except SafetensorError as error:
        raise UserError(expected="a whole file", found=f"a damaged one ({error})", where=path, cure=cure) from None
    if head is None or head.fingerprint != named:
        raise UserError(expected="the tensors that its header names", found="others", where=path, cure=cure)
    return head
