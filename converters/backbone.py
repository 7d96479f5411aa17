"""`Backbone`: the one form through which every checkpoint passes, and its fingerprint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters import architectures, files, projection
from converters.errors import UserError
from converters.fingerprint import BATCH_COUNTER, fingerprint
from converters.metadata import BackboneMetadata, Origin, Preprocess, head_beside, read_metadata
from converters.no_init import zeros_for_draws
from converters.projection import ProjectionHead


def check_tensors(arch: str, tensors: Mapping[str, object], where: str | Path) -> None:
    """Prove names, shapes and types of a backbone's tensors. Reads no value, so a hostile tensor costs nothing.

    Raises:
        UserError: if they are not exactly those of `arch`: float32, and int64 for batch counters.
    """
    expected = architectures.expected_shapes(arch)
    for name in [*tensors, *expected]:
        if name not in expected:
            raise UserError(expected=f"tensors of {arch} only", found=repr(name), where=where)
        tensor = tensors.get(name)
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            found = "nothing" if name not in tensors else f"another value ({type(tensor).__name__})"
            raise UserError(expected=f"a tensor of values in {name}", found=found, where=where)
        if tuple(tensor.shape) != expected[name]:
            raise UserError(expected=f"{name} of shape {expected[name]}", found=str(tuple(tensor.shape)), where=where)
        dtype = torch.int64 if name.endswith(BATCH_COUNTER) else torch.float32
        if tensor.dtype != dtype:
            raise UserError(
                expected=f"{dtype} in {name}",
                found=str(tensor.dtype),
                where=where,
                # float16 and bfloat16 would widen exactly, but the fingerprint is that of the values as they were used.
                cure="save it as float32 first, with tensor.float()" if tensor.is_floating_point() else None,
            )


@dataclass(frozen=True)
class Backbone:
    """ResNet weights without a head, in torchvision's names, and what must be known to use them.

    Raises:
        UserError: on construction, if names, shapes or types are not exactly those of `arch` (see `check_tensors`), a
            value is not finite, a variance below 0, or `stride_in_1x1` is set for basic blocks, which have no 1x1
            convolution.
    """

    arch: str
    tensors: Mapping[str, Tensor]
    origin: Origin
    preprocess: Preprocess = field(default_factory=Preprocess)
    stride_in_1x1: bool = False
    head: ProjectionHead | None = None
    """The projection head that its source had, where it is MoCo's; outside the fingerprint, in a file of its own."""

    def __post_init__(self) -> None:
        check_tensors(self.arch, self.tensors, self.origin.file)
        if self.stride_in_1x1 and not architectures.architecture(self.arch).bottleneck:
            raise UserError(expected="a bottleneck ResNet for stride_in_1x1", found=self.arch, where=self.origin.file)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                continue
            # Both ends of the values are found in one pass without a copy; NaN is an end of whatever holds one.
            least, most = (end.item() for end in torch.aminmax(tensor))
            if not (math.isfinite(least) and math.isfinite(most)):
                raise UserError(expected="finite weights", found=f"NaN or infinity in {name}", where=self.origin.file)
            if name.endswith("running_var") and least < 0:
                raise UserError(
                    expected="variances of at least 0", found=f"{least:g} in {name}", where=self.origin.file
                )

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

    def module(self, *, copy: bool = True) -> nn.Module:
        """A torchvision ResNet with these weights, stride as told, no head, in eval mode: N×3×H×W -> N×D.

        Args:
            copy: whether its tensors are its own; else they are the backbone's, and must not be changed.
        """
        # On the meta device nothing is initialised at random only to be overwritten.
        with torch.device("meta"), zeros_for_draws():
            model = architectures.build(self.arch)
        model.fc = nn.Identity()
        if copy:
            model = model.to_empty(device="cpu")
        model.load_state_dict(dict(self.tensors), strict=True, assign=not copy)
        if self.stride_in_1x1:
            blocks: list[Any] = [model.get_submodule(f"layer{stage}.0") for stage in (2, 3, 4)]
            for block in blocks:
                block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write the file, and the head's beside it: each is whole or absent. A head that lies there goes.

        Raises:
            UserError: where no file can be.
            CheckFailed: for a disk that fills.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        header = self.metadata.to_header()
        # The head first: who finds the backbone finds its head too.
        if self.head is not None:
            self.head.save(head_beside(path), self.fingerprint)
        else:
            with files.faults_of(path):
                head_beside(path).unlink(missing_ok=True)
        with files.whole(path) as partial:
            # safetensors lets the owner alone read what it writes: give it the permissions of any new file instead.
            mode = partial.stat().st_mode
            save_file(tensors, partial, metadata=header)
            partial.chmod(mode)

    @classmethod
    def load(cls, path: Path) -> Backbone:
        """Read a backbone file, and the head beside it; prove that the tensors are those that the headers name.

        Raises:
            UserError: if the file is absent, damaged, no backbone file, its tensors do not match its fingerprint, or
                the head is that of another backbone.
        """
        metadata = read_metadata(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(expected="a whole backbone file", found=f"a damaged one ({error})", where=path) from None
        backbone = cls.of(metadata, tensors, path)
        width = architectures.architecture(metadata.arch).feature_dim
        return replace(backbone, head=projection.load_beside(path, metadata.fingerprint, width))

    @classmethod
    def of(
        cls, metadata: BackboneMetadata, content: object, where: Path, names: Mapping[str, str] | None = None
    ) -> Backbone:
        """The backbone of a header and what it came with.

        Args:
            metadata: the header.
            content: should map names to tensors or NumPy arrays; a damaged file may hold anything.
            where: the file.
            names: its names -> torchvision's, where they differ.

        Raises:
            UserError: if the content is not tensors, or not those that the header names.
        """
        if not isinstance(content, Mapping):
            raise UserError(expected="named tensors beside the header", found=type(content).__name__, where=where)
        names = names or {}
        tensors = {
            names.get(name, name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in content.items()
        }
        check_tensors(metadata.arch, tensors, where)
        try:
            backbone = cls(
                arch=metadata.arch,
                tensors=tensors,
                origin=metadata.origin,
                preprocess=metadata.preprocess,
                stride_in_1x1=metadata.stride_in_1x1,
            )
        except UserError as error:  # it names the source that the header names: what is at fault is this file
            raise UserError(expected=error.expected, found=error.found, where=where, cure=error.cure) from None
        if backbone.fingerprint != metadata.fingerprint:
            raise UserError(
                expected=f"tensors with the fingerprint {metadata.fingerprint[:12]}",
                found=f"the fingerprint {backbone.fingerprint[:12]}",
                where=where,
                cure="the file was changed after it was written: convert it anew",
            )
        return backbone
