"""`Backbone`: the one form through which every checkpoint passes, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters import architectures
from converters.errors import UserError
from converters.metadata import BackboneMetadata, Origin, Preprocess, read_metadata

BATCH_COUNTER = "num_batches_tracked"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) that identifies weights in whichever container they lie.

    Taken over parameters and running statistics in the order of their torchvision names. Of each: the name, the dtype,
    the shape as JSON, each closed by a zero byte, then the little-endian bytes. Batch counters, which some families
    drop, stay out: 265 tensors for a ResNet-50.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith(BATCH_COUNTER):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        header = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{json.dumps(list(tensor.shape))}\0"
        digest.update(header.encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Backbone:
    """ResNet weights without a head, in torchvision's names, and what must be known to use them.

    Raises:
        UserError: on construction, if names or shapes are not exactly those of `arch`, or a value is not finite.
    """

    arch: str
    tensors: Mapping[str, Tensor]
    origin: Origin
    preprocess: Preprocess = field(default_factory=Preprocess)
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        expected = architectures.expected_shapes(self.arch)
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        for name in expected.keys() | found.keys():
            if expected.get(name) != found.get(name):
                raise UserError(
                    expected=f"{name} of shape {expected.get(name, 'none: it is no tensor of ' + self.arch)}",
                    found=str(found.get(name, "nothing")),
                    where=self.origin.file,
                )
            if not torch.isfinite(self.tensors[name]).all():
                raise UserError(expected="finite weights", found=f"NaN or infinity in {name}", where=self.origin.file)

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.tensors)

    @property
    def metadata(self) -> BackboneMetadata:
        """The header under which `save` writes it."""
        return BackboneMetadata(
            arch=self.arch,
            fingerprint=self.fingerprint,
            stride_in_1x1=self.stride_in_1x1,
            preprocess=self.preprocess,
            origin=self.origin,
        )

    def module(self) -> nn.Module:
        """A torchvision ResNet with a copy of these weights, stride as told, no head, in eval mode: N×3×H×W -> N×D."""
        model = architectures.build(self.arch)
        model.fc = nn.Identity()
        model.load_state_dict(dict(self.tensors), strict=True)
        if self.stride_in_1x1 and architectures.architecture(self.arch).bottleneck:
            blocks: list[Any] = [model.get_submodule(f"layer{stage}.0") for stage in (2, 3, 4)]
            for block in blocks:
                block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write atomically: the file is whole or absent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        # safetensors lets the owner alone read what it writes: give it the permissions of any new file instead.
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata=self.metadata.to_header())
        partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Backbone:
        """Read a backbone file and prove that its tensors are those that its header names.

        Raises:
            UserError: if the file is absent, damaged, no backbone file, or its tensors do not match its fingerprint.
        """
        metadata = read_metadata(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(expected="a whole backbone file", found=f"a damaged one ({error})", where=path) from None
        return cls.of(metadata, tensors, path)

    @classmethod
    def of(cls, metadata: BackboneMetadata, tensors: Mapping[str, Tensor], where: Path) -> Backbone:
        """The backbone of a header and the tensors that it came with.

        Raises:
            UserError: if the tensors are not those that the header names.
        """
        backbone = cls(
            arch=metadata.arch,
            tensors=tensors,
            origin=metadata.origin,
            preprocess=metadata.preprocess,
            stride_in_1x1=metadata.stride_in_1x1,
        )
        if backbone.fingerprint != metadata.fingerprint:
            raise UserError(
                expected=f"tensors with the fingerprint {metadata.fingerprint[:12]}",
                found=f"the fingerprint {backbone.fingerprint[:12]}",
                where=where,
                cure="the file was changed after it was written: convert it anew",
            )
        return backbone
