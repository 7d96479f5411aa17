"""Small tar shards, written by webdataset, which knows nothing of this project."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import webdataset
from PIL import Image
from webdataset import tariterators

from pretrain.input.shards import INDEX


def jpeg(number: int, size: int = 24) -> bytes:
    """A picture of its own for each number."""
    values = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=90)
    return file.getvalue()


def as_webdataset_reads(stream: IO[bytes], url: str) -> list[dict[str, Any]]:
    """The samples of a shard: `__key__`, and the bytes of each ending."""
    files = tariterators.tar_file_expander([{"url": url, "stream": stream}])
    return list(tariterators.group_by_keys(files))


def make_shards(folder: Path, contents: Sequence[Sequence[bytes]], *, indexed: bool = False) -> Path:
    """One shard `x-000.tar`, … for each sequence of encoded images, whose keys are `0000`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, images in enumerate(contents):
        with webdataset.TarWriter(str(folder / f"x-{shard:03d}.tar")) as tar:
            for number, image in enumerate(images):
                tar.write({"__key__": f"{number:04d}", "cls": number, "jpg": image, "json": {"shard": shard}})
    if indexed:
        write_index(folder, [len(images) for images in contents])
    return folder


def write_index(folder: Path, counts: Sequence[int], *, sample: bool = False) -> None:
    """`shards.json` as its format is documented."""
    shards = [
        {"name": path.name, "images": images, "bytes": path.stat().st_size}
        for path, images in zip(sorted(folder.glob("*.tar")), counts, strict=True)
    ]
    index = {
        "schema": 1,
        "packer": "by hand",
        "images": sum(counts),
        "shard_images": max(counts),
        "size": 24,
        "quality": 90,
        "source": {"images": sum(counts), "fingerprint": "0" * 64, "sample": sample},
        "damaged": [],
        "shards": shards,
    }
    (folder / INDEX).write_text(json.dumps(index))
