"""Images that are files -> WebDataset tar shards of small images. Loads no torch.

- An image whose shorter side is longer than `size` is scaled down to it (bicubic; a JPEG is first decoded at the
  smallest of the scales 1/8 to 1 that leaves twice what is needed) and stored as a JPEG. Orientation flags and colour
  profiles are left out, as the pretraining would ignore them.
- Any other is stored byte for byte, as the format that it is in: it is neither encoded anew nor enlarged.
- A key is the path below the source's root without its ending. `%` is written as `%25`, and dots of the base name, at
  which WebDataset would cut, as `%2E`. Where two paths differ in their endings alone, these become part of the keys.
- The order is that of the keys' hashes. Sorted names would put a class into each stretch of a shard, and no shuffle
  buffer would spread it over the batches again.

The same source and the same Pillow give the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import tarfile
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import PIL
from PIL import Image, UnidentifiedImageError

from converters.errors import CheckFailed, UserError
from converters.files import faults_of, move, sync_folder, whole
from converters.lock import exclusive
from converters.progress import Progress
from pretrain.input.images import UNKNOWN_FORMAT, ImageFiles
from pretrain.input.shard_places import ENDING
from pretrain.input.shards import INDEX, DamagedImage, PackedShard, PackedSource, ShardIndex, parse_index
from pretrain.input.tar_samples import META

PACKER = f"moco-transfer pack 1, Pillow {PIL.__version__}"
"""The number counts up when the same images would give other bytes."""
_CHUNK = 32
"""Images that a process is given at once."""


class Packed(NamedTuple):
    """An image as a shard holds it."""

    ending: str
    data: bytes


class Damaged(NamedTuple):
    """An image that cannot be read."""

    reason: str


@dataclass(frozen=True)
class Packing:
    """How shards are made."""

    size: int = 256
    """Longest shorter side, pixels."""
    shard_images: int = 10_000
    quality: int = 90
    """Of the JPEGs that are encoded anew."""
    max_damaged: float = 0.001
    """A damaged image is left out and listed; more than this share of them is an error."""


def pack(source: ImageFiles, out: Path, packing: Packing, *, jobs: int = 1, force: bool = False) -> ShardIndex:
    """Write `out/NAME-000000.tar`, … and `out/shards.json`; `out` appears whole, NAME is its own.

    Args:
        source: a folder of images or a list of files.
        out: the folder to make.
        packing: see there.
        jobs: processes that decode and encode; it changes no byte.
        force: replace `out` if it holds packed shards.

    Returns:
        What `shards.json` says.

    Raises:
        UserError: if `out` exists, or no folder can be made there.
        CheckFailed: for too many damaged images, or a full disk.
    """
    out = _absolute(out)
    check_free(out, force=force)
    partial, former = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.former")
    with faults_of(out):
        partial.mkdir(parents=True, exist_ok=True)
    with exclusive(partial, "packing"):
        try:
            _clear(partial)  # what a killed run left
            index = _write(source, partial, re.sub(r"[^A-Za-z0-9_-]", "_", out.name), packing, jobs)
            (partial / ".lock").unlink()
            with faults_of(out):
                if out.exists():
                    shutil.rmtree(former, ignore_errors=True)
                    out.replace(former)
                partial.replace(out)
                sync_folder(out.parent)
                shutil.rmtree(former, ignore_errors=True)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return index


def check_free(out: Path, *, force: bool) -> None:
    """See that `out` can be made.

    Raises:
        UserError: if it exists, unless `force` and it is empty or holds packed shards; if nothing can be renamed to it.
    """
    out = _absolute(out)
    with faults_of(out):
        exists = out.exists() or out.is_symlink()
    if not exists:
        return
    if not out.name or out.is_mount():
        raise UserError(
            expected="a folder that can be renamed", found="a mount point", where=out, cure="choose one below it"
        )
    if force and out.is_dir() and not out.is_symlink():
        if not any(out.iterdir()):
            return
        if (out / INDEX).is_file():
            index = parse_index((out / INDEX).read_bytes(), str(out / INDEX))
            if {path.name for path in out.iterdir()} <= {INDEX, *(shard.name for shard in index.shards)}:
                return
    raise UserError(
        expected="packed shards to replace" if force else "no file or folder there",
        found="something else" if force else "one",
        where=out,
        cure="choose another path" if force else "choose another path, or replace packed shards with --force",
    )


def _absolute(out: Path) -> Path:
    """A path with a name: `.` and `new/..` have none to rename to. Links stay, as what they lead to is not replaced."""
    with faults_of(out):
        return Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow links


def keys(names: Sequence[str]) -> list[str]:
    """WebDataset keys of relative paths, all different."""
    with_ending: set[str] = set()
    while True:
        found = [_key(name, whole=name in with_ending) for name in names]
        counts = Counter(found)
        clashing = {name for name, key in zip(names, found, strict=True) if counts[key] > 1} - with_ending
        if not clashing:
            return found
        with_ending |= clashing


def _key(name: str, *, whole: bool) -> str:
    """Different for any two names if `whole`."""
    folder, slash, base = name.replace("%", "%25").rpartition("/")
    stem = base if whole else os.path.splitext(base)[0]  # noqa: PTH122 - a part of a name, no path
    key = folder + slash + stem.replace(".", "%2E")
    return "%5F" + key[1:] if META.match(key) else key


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != ".lock":
            path.unlink()


def _write(source: ImageFiles, folder: Path, name: str, packing: Packing, jobs: int) -> ShardIndex:
    names = [path.relative_to(source.root).as_posix() for path in source.paths]
    order = sorted(zip(keys(names), source.paths, names, strict=True), key=lambda entry: _digest(entry[0]))
    damaged: list[DamagedImage] = []
    allowed = int(packing.max_damaged * len(order))
    shards: list[PackedShard] = []

    def readable(results: Iterable[Packed | Damaged]) -> Iterator[tuple[str, Packed]]:
        for (key, _, relative), result in zip(order, results, strict=True):
            if isinstance(result, Packed):
                yield key, result
            else:
                # A name that is no UTF-8 has a place in a path, but none in JSON.
                shown = relative.encode(errors="backslashreplace").decode()
                damaged.append(DamagedImage(name=shown, reason=result.reason))
                if len(damaged) > allowed:
                    raise CheckFailed(
                        f"{source.where}: more than {allowed} of {len(order)} images are damaged, the last {shown} "
                        f"({result.reason}); repair or remove them, or allow a larger share with --max-damaged"
                    )
            progress.step()

    with contextlib.ExitStack() as stack:
        results = stack.enter_context(_encoded([path for _, path, _ in order], packing, jobs))
        progress = stack.enter_context(Progress("packing", len(order), "images"))
        images = readable(results)
        while batch := list(itertools.islice(images, 1)):
            path = folder / f"{name}-{len(shards):06d}{ENDING}"
            rest = itertools.islice(images, packing.shard_images - 1)
            count = _write_shard(path, itertools.chain(batch, rest))
            shards.append(PackedShard(name=path.name, images=count, bytes=path.stat().st_size))
    if not shards:
        raise CheckFailed(f"{source.where}: none of {len(order)} images can be read, the last: {damaged[-1].reason}")
    index = ShardIndex(
        schema=1,
        packer=PACKER,
        images=sum(shard.images for shard in shards),
        shard_images=packing.shard_images,
        size=packing.size,
        quality=packing.quality,
        source=PackedSource(images=len(order), fingerprint=source.fingerprint, sample=source.sample),
        damaged=tuple(damaged),
        shards=tuple(shards),
    )
    with whole(folder / INDEX) as file:
        file.write_text(json.dumps(index.model_dump(mode="json", by_alias=True), indent=1) + "\n", encoding="utf-8")
    return index


def _write_shard(path: Path, images: Iterable[tuple[str, Packed]]) -> int:
    """The number of images written."""
    count = 0
    partial = path.with_name(f".{path.name}.partial")
    with faults_of(path), tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, image in images:
            member = tarfile.TarInfo(key + image.ending)  # of time 0 and nobody, so that the bytes are always the same
            member.size = len(image.data)
            tar.addfile(member, io.BytesIO(image.data))
            count += 1
    with faults_of(path):
        move(partial, path)
    return count


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


@contextlib.contextmanager
def _encoded(paths: Sequence[Path], packing: Packing, jobs: int) -> Iterator[Iterator[Packed | Damaged]]:
    """The images in order, encoded by `jobs` processes."""
    if jobs == 1:
        yield (encode(path, packing) for path in paths)
        return
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        yield _in_order(pool, paths, packing, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, paths: Sequence[Path], packing: Packing, jobs: int
) -> Iterator[Packed | Damaged]:
    # Not pool.map: it would begin all images, and keep in memory what the disk does not take fast enough.
    pending: deque[Future[list[Packed | Damaged]]] = deque()
    for begin in range(0, len(paths), _CHUNK):
        pending.append(pool.submit(_encode_all, paths[begin : begin + _CHUNK], packing))
        if len(pending) > 4 * jobs:
            yield from _result(pending.popleft())
    while pending:
        yield from _result(pending.popleft())


def _result(chunk: Future[list[Packed | Damaged]]) -> list[Packed | Damaged]:
    try:
        return chunk.result()
    except BrokenProcessPool:
        raise CheckFailed("a packing process was killed, perhaps for want of memory: try fewer --jobs") from None


def _encode_all(paths: Sequence[Path], packing: Packing) -> list[Packed | Damaged]:
    return [encode(path, packing) for path in paths]


def encode(path: Path, packing: Packing) -> Packed | Damaged:
    """An image as its shard holds it; it is decoded to the end in any case, so that no damage is packed."""
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # see pretrain.input.batches
            with Image.open(io.BytesIO(data)) as image:
                return _encode(image, data, packing)
    except UnidentifiedImageError:
        return Damaged(UNKNOWN_FORMAT)  # its own text holds an address in memory
    except Exception as error:
        # Pillow's decoders raise nearly anything for a damaged file, as TypeError for a TIFF of wrong tags.
        return Damaged(" ".join(str(error).split()) or type(error).__name__)


_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "PPM": ".ppm", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
"""By what a file is, not by what it is called."""


def _encode(image: Image.Image, data: bytes, packing: Packing) -> Packed:
    width, height = image.size
    shorter, kind = min(width, height), image.format or ""
    if shorter <= packing.size and kind in _ENDINGS:
        image.load()
        return Packed(_ENDINGS[kind], data)
    scale = min(1.0, packing.size / shorter)
    target = round(width * scale), round(height * scale)
    image.draft("RGB", (2 * target[0], 2 * target[1]))
    small = image.convert("RGB")
    if small.size != target:
        small = small.resize(target, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=packing.quality)
    return Packed(".jpg", file.getvalue())
