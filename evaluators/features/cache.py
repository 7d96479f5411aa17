"""Features on disk: one folder a layer of a split, whole or absent, under a name that says what decides the values.

While it is being made, a folder `KEY.partial` holds the values as far as they go, and a checksum for every chunk of
images that is done: the next try takes these chunks over, however many processes it has.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.errors import CheckFailed
from converters.files import faults_of, sync_folder, whole
from evaluators.features import header as headers
from evaluators.features.header import Header, Identity, Made

CHUNK = 512
"""Images whose features are kept together, at most: what a kill can cost."""

HEADER = "header.json"
VALUES = "values.f32"
_DTYPE = np.dtype("<f4")
_DONE = re.compile(r"(\d{1,9}) ([0-9a-f]{64})")


@dataclass(frozen=True)
class Entry:
    """The cache of one layer of one split."""

    root: Path
    """The folder of all caches."""
    identity: Identity
    images: int
    """N."""
    chunk: int = CHUNK
    """Images a chunk, while it is being made."""
    stamp: str = ""
    """How the images' files look now; see `evaluators.features.header.stamp`."""

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

    @property
    def stale(self) -> bool:
        """Whether files of images changed since the features were computed; a damaged header is for `open` to tell."""
        try:
            return headers.read(self.folder / HEADER).stamp != self.stamp
        except headers.FAULTS:
            return False

    @property
    def made(self) -> Made:
        """What computed the features.

        Raises:
            CheckFailed: as `open`.
        """
        return self._header().made

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
                    first, stop = chunk * header.chunk, min((chunk + 1) * header.chunk, header.images)
                    what = f"the checksum of images {first} to {stop - 1} as it was written"
                    raise self._damaged(path, what, "other bytes")
        return np.memmap(path, dtype=_DTYPE, mode="r", shape=(header.images, header.dim))

    def _header(self) -> Header:
        path = self.folder / HEADER
        try:
            header = headers.read(path)
        except headers.FAULTS as error:
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

    @property
    def begun_chunk(self) -> int | None:
        """Images a chunk of what a former try left, perhaps with another number of processes; None: nothing."""
        header = self._begun()
        return header.chunk if header is not None and 1 <= header.chunk <= CHUNK else None

    def begin(self, dim: int, by: Made, *, anew: bool) -> frozenset[int]:
        """Make the partial folder, or take over the one that a former try left.

        Args:
            dim: D.
            by: what computes. What another computed is not taken over: the values would differ by rounding. Neither are
                chunks of another size (`begun_chunk` tells it before), or of images that changed since.
            anew: take nothing over.

        Returns:
            The chunks that are done already.

        Raises:
            UserError, CheckFailed: where nothing can be written.
        """
        header = Header(
            identity=self.identity, images=self.images, dim=dim, chunk=self.chunk, made=by, stamp=self.stamp
        )
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

    def abandon(self) -> None:
        """Remove the partial folder: what it holds is not to be trusted.

        Raises:
            UserError, CheckFailed: where nothing can be written.
        """
        with faults_of(self.partial):
            shutil.rmtree(self.partial)

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
        # Until the last rename the notes stay, so that the next try takes everything over if this one ends in between.
        with faults_of(self.folder):
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
            for file in self.folder.glob("*.done"):
                file.unlink()
            if former.exists():
                shutil.rmtree(former)

    def _begun(self) -> Header | None:
        """The header of the partial folder; None where it is damaged or another's."""
        path = self.partial / HEADER
        try:
            return headers.read(path).model_copy(update={"checksums": ()})
        except headers.FAULTS:
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
