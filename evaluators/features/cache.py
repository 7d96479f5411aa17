"""Features on disk: one folder a layer of a split, whole or absent, under a name that says what decides the values.

While it is being made, a folder `KEY.partial` holds the values as far as they go, and a checksum for every chunk of
images that is done: the next try takes these chunks over, however many processes it has.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray

from converters.errors import CheckFailed, UserError
from converters.files import faults_of, sync_folder, whole
from converters.metadata import Preprocess
from converters.settings import Settings, parse
from evaluators.features.layers import Layer

CHUNK = 512
"""Images whose features are kept together: what a kill can cost."""

HEADER = "header.json"
VALUES = "values.f32"
_DTYPE = np.dtype("<f4")
_DONE = re.compile(r"(\d{1,9}) ([0-9a-f]{64})")


class View(Settings):
    """What happens to an image's pixels (see `evaluators.settings.base.FeatureSettings`)."""

    geometry: str
    resize: int
    crop: int
    interpolation: str


class Identity(Settings):
    """Everything that decides the values of a cache. Its hash is the folder's name."""

    format: Literal["moco-transfer-features"] = "moco-transfer-features"
    version: Literal[1] = 1
    backbone: str
    """The backbone's fingerprint."""
    preprocess: Preprocess
    stride_in_1x1: bool
    source: str
    """The data set's fingerprint."""
    split: str
    view: View
    layer: Layer
    precision: str
    head: str | None
    """The fingerprint of the projection head, where the layer is behind it."""

    @property
    def key(self) -> str:
        """40 hex digits."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:40]


class Made(Settings):
    """What computed the values."""

    device: str
    """`cpu` or `cuda`."""
    folded: bool
    """Whether BN was folded into the convolutions (see `evaluators.features.network`)."""
    versions: dict[str, str]


class Header(Settings):
    """`header.json`."""

    identity: Identity
    images: int
    """N."""
    dim: int
    """D."""
    dtype: Literal["<f4"] = "<f4"
    chunk: int
    """Images a chunk; the last may have fewer."""
    made: Made
    checksums: tuple[str, ...] = ()
    """sha256 (hex) of the bytes of each chunk."""


def made(device: str, *, folded: bool) -> Made:
    """What computes here."""
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    return Made(device=device, folded=folded, versions={**versions, "python": platform.python_version()})


@dataclass(frozen=True)
class Entry:
    """The cache of one layer of one split."""

    root: Path
    """The folder of all caches."""
    identity: Identity
    images: int
    """N."""
    chunk: int = CHUNK

    @property
    def folder(self) -> Path:
        """It exists when the features are finished, and only then."""
        return self.root / self.identity.key

    @property
    def partial(self) -> Path:
        """It exists while they are made, and after a kill."""
        return self.root / f"{self.identity.key}.partial"

    @property
    def lock(self) -> Path:
        """What who makes them holds; see `converters.lock.in_turn`."""
        return self.root / ".locks" / self.identity.key

    @property
    def finished(self) -> bool:
        """Whether there are features; `open` proves that they are the right ones."""
        return self.folder.is_dir()

    def rows(self, chunk: int) -> range:
        """The images of a chunk."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.images))

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-self.images // self.chunk)

    # A finished folder ------------------------------------------------------------------------------------------------

    def open(self, *, proved: bool = False) -> NDArray[np.float32]:
        """The values N×D, memory-mapped, read only.

        Args:
            proved: the bytes were held against their checksums already, by this process or another.

        Raises:
            CheckFailed: if the folder is damaged, or another's.
        """
        header = self._header()
        path = self.folder / VALUES
        size, expected = (path.stat().st_size if path.is_file() else 0), header.images * header.dim * _DTYPE.itemsize
        if size != expected:
            raise self._damaged(path, f"{expected} bytes", f"{size}")
        if not proved:
            for chunk, digest in enumerate(_digests(path, header)):
                if digest != header.checksums[chunk]:
                    rows = self.rows(chunk)
                    what = f"the checksum of images {rows.start} to {rows.stop - 1} as it was written"
                    raise self._damaged(path, what, "other bytes")
        return np.memmap(path, dtype=_DTYPE, mode="r", shape=(header.images, header.dim))

    def _header(self) -> Header:
        path = self.folder / HEADER
        try:
            header = parse(Header, json.loads(path.read_bytes()), path)
        except (OSError, ValueError, UserError) as error:
            raise self._damaged(path, "the header of a feature cache", " ".join(str(error).split())) from None
        if header.identity != self.identity:
            ours, theirs = self.identity.model_dump(mode="json"), header.identity.model_dump(mode="json")
            field = next(name for name in ours if ours[name] != theirs[name])
            raise self._damaged(path, f"the {field} {_short(ours[field])}", _short(theirs[field]))
        if header.images != self.images:
            raise self._damaged(path, f"features of {self.images} images", f"of {header.images}")
        # Of another chunk size than ours is as good: the checksums say which rows they are of.
        if header.chunk < 1 or header.dim < 1 or len(header.checksums) != -(-header.images // header.chunk):
            raise self._damaged(path, "a checksum for every chunk", f"{len(header.checksums)}")
        return header

    def _damaged(self, where: Path, expected: str, found: str) -> CheckFailed:
        cure = f"remove {self.folder}, or compute it anew with --force"
        return CheckFailed(f"{where}: the feature cache is damaged: expected {expected}, found {found}; {cure}")

    # A folder in the making; whoever calls these holds the lock -------------------------------------------------------

    def begin(self, dim: int, by: Made, *, anew: bool) -> frozenset[int]:
        """Make the partial folder, or take over the one that a former try left.

        Args:
            dim: D.
            by: what computes. What another computed is not taken over: the values would differ by rounding.
            anew: take nothing over.

        Returns:
            The chunks that are done already.

        Raises:
            UserError, CheckFailed: where nothing can be written.
        """
        header = Header(identity=self.identity, images=self.images, dim=dim, chunk=self.chunk, made=by)
        path = self.partial / HEADER
        with faults_of(self.partial):
            if self.partial.exists() and (anew or self._begun() != header):
                shutil.rmtree(self.partial)
            self.partial.mkdir(parents=True, exist_ok=True)
            (self.partial / VALUES).touch()
        if not path.exists():
            with whole(path) as file:
                file.write_text(header.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return frozenset(self._done(header))

    def missing_bytes(self, dim: int, done: int) -> int:
        """What is still to be written when so many chunks are done."""
        return max(self.images - done * self.chunk, 0) * dim * _DTYPE.itemsize

    def write(self, chunk: int, values: NDArray[np.float32], writer: int) -> None:
        """Keep the features of a chunk: first the values, then their checksum.

        Args:
            chunk: which.
            values: of `rows(chunk)`, B×D.
            writer: number of this process: each notes its checksums in a file of its own.

        Raises:
            CheckFailed: for a disk that fills.
        """
        assert len(values) == len(self.rows(chunk)), "an image was lost or doubled"
        data = memoryview(np.ascontiguousarray(values, dtype=_DTYPE).tobytes())
        row = values.shape[1] * _DTYPE.itemsize
        path = self.partial / VALUES
        with faults_of(path):
            descriptor = os.open(path, os.O_WRONLY)
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, data[written:], self.rows(chunk).start * row + written)
            finally:
                os.close(descriptor)
            # A line that was cut off by a kill must not swallow this one.
            with (self.partial / f"{writer}.done").open("a", encoding="ascii") as file:
                file.write(f"\n{chunk} {hashlib.sha256(data).hexdigest()}\n")

    def finish(self) -> None:
        """Turn the partial folder, in which every chunk is done, into the finished one.

        Raises:
            CheckFailed: if a chunk is not there as it was computed.
        """
        header = self._begun()
        assert header is not None, "begun before"
        done = self._done(header)
        absent = sorted(set(range(self.chunks)) - done.keys())
        if absent:
            raise CheckFailed(
                f"{self.partial}: expected the features of all {self.images} images, found "
                f"{len(absent)} of {self.chunks} chunks missing, as {absent[0]}; the folder must be one and the same "
                "for all processes, and nobody else may write there"
            )
        complete = header.model_copy(update={"checksums": tuple(done[chunk] for chunk in range(self.chunks))})
        with whole(self.partial / HEADER) as file:
            file.write_text(complete.model_dump_json(indent=1) + "\n", encoding="utf-8")
        with faults_of(self.folder):
            for file in self.partial.glob("*.done"):
                file.unlink()
            with (self.partial / VALUES).open("rb") as values:
                os.fsync(values.fileno())
            sync_folder(self.partial)
            former = self.root / f"{self.identity.key}.former"
            if former.exists():
                shutil.rmtree(former)
            if self.folder.exists():
                self.folder.rename(former)
            self.partial.rename(self.folder)
            sync_folder(self.root)
            if former.exists():
                shutil.rmtree(former)

    def _begun(self) -> Header | None:
        """The header of the partial folder; None where it is damaged or another's."""
        path = self.partial / HEADER
        try:
            return parse(Header, json.loads(path.read_bytes()), path).model_copy(update={"checksums": ()})
        except (OSError, ValueError, UserError):
            return None

    def _done(self, header: Header) -> dict[int, str]:
        """Chunks whose bytes are those that some process noted -> their checksum."""
        noted: dict[int, set[str]] = {}
        for file in self.partial.glob("*.done"):
            for line in file.read_text(encoding="ascii", errors="replace").splitlines():
                match = _DONE.fullmatch(line)
                if match and int(match[1]) < self.chunks:
                    noted.setdefault(int(match[1]), set()).add(match[2])
        chunks = sorted(noted)
        digests = _digests(self.partial / VALUES, header, chunks)
        return {chunk: digest for chunk, digest in zip(chunks, digests, strict=True) if digest in noted[chunk]}


def _digests(path: Path, header: Header, chunks: Sequence[int] | None = None) -> list[str]:
    """sha256 (hex) of the bytes of chunks, several at a time: hashing holds no lock of the interpreter's."""
    size = header.chunk * header.dim * _DTYPE.itemsize
    end = header.images * header.dim * _DTYPE.itemsize
    chunks = range(-(-header.images // header.chunk)) if chunks is None else chunks
    descriptor = os.open(path, os.O_RDONLY)

    def digest(chunk: int) -> str:
        found = hashlib.sha256()
        place, stop = chunk * size, min((chunk + 1) * size, end)
        while place < stop and (block := os.pread(descriptor, min(stop - place, 1 << 22), place)):
            found.update(block)
            place += len(block)
        return found.hexdigest()

    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(digest, chunks))
    finally:
        os.close(descriptor)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
