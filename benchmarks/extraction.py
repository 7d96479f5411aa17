"""Features of frozen backbones: our extraction against a plain evaluation loop, side by side.

    python -m benchmarks.extraction --arch resnet50 --images 256 --threads 2

The plain loop is what evaluation scripts do: torchvision's model in eval mode, `ImageFolder`, `Resize`, `CenterCrop`,
`ToTensor`, `Normalize`, a `DataLoader` with as many workers, `torch.no_grad()`. Ours is `extract` with everything that
belongs to it: the check of the folded network, the checksums, the cache on disk. Both read the same JPEGs (see
`benchmarks.input_pipeline`) in one process, in turns, with the same threads; the ratio is that of neighbours in time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.input_pipeline import SIZES, make_jpegs
from converters.families import random_backbone, read_source
from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from evaluators.datasets import classification
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job
from evaluators.protocols import CATALOGUE
from evaluators.settings.knn import KnnSettings

Values = NDArray[np.float32]


def measure(
    source: str, *, images: int, repeats: int, threads: int, workers: int, batch_size: int, precision: str
) -> dict[str, Any]:
    """Both at work on the same images.

    Returns:
        `plain` and `ours` in images per second (medians), `ratio` (median of the repeats, with its least and largest),
        and how far the features are apart: `difference`, the largest |Δ| relative to the largest value, and `cosine`,
        the least over the images.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        root = make_folder(Path(name) / "images", images)
        plain, ours = loops(source, root, workers=workers, batch_size=batch_size, precision=precision)
        plain(), ours()  # warm up
        times, found = [], {}
        for repeat in range(repeats):
            seconds = {}
            for which, loop in ((0, plain), (1, ours)) if repeat % 2 == 0 else ((1, ours), (0, plain)):
                start = time.perf_counter()
                found[which] = loop()
                seconds[which] = time.perf_counter() - start
            times.append((seconds[0], seconds[1]))
    ratios = [a / b for a, b in times]
    a, b = (found[which].astype(np.float64) for which in (0, 1))
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {
        "backbone": source,
        "precision": precision,
        "images": images,
        "threads": threads,
        "workers": workers,
        "plain": round(images / statistics.median(seconds for seconds, _ in times), 1),
        "ours": round(images / statistics.median(seconds for _, seconds in times), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_least": round(min(ratios), 2),
        "ratio_largest": round(max(ratios), 2),
        "difference": float(f"{np.abs(a - b).max() / np.abs(a).max():.2g}"),
        "cosine": float(f"{cosines.min():.8f}"),
    }


def make_folder(root: Path, images: int) -> Path:
    """An image folder of two classes: `images` JPEGs of typical sizes in `train/`, two in `val/`."""
    for split, count in (("train", images // 2), ("val", 1)):
        for label in ("a", "b"):
            folder = root / split / label
            folder.mkdir(parents=True)
            make_jpegs(folder, SIZES["typical"], count, seed=hash_of(split, label))
    return root


def hash_of(*words: str) -> int:
    """A seed of words."""
    return sum(ord(letter) * 31**place for place, letter in enumerate("/".join(words))) % 2**32


def loops(
    source: str, root: Path, *, workers: int, batch_size: int, precision: str
) -> tuple[Callable[[], Values], Callable[[], Values]]:
    """The plain loop and ours over `train/`, each giving N×D in the order of the sorted files."""
    backbone = random_backbone(source.split(":")[1], 0) if source.startswith("random:") else read_source(source)
    model: nn.Module = backbone.module()
    settings = CATALOGUE["knn-dino@1"].settings
    assert isinstance(settings, KnnSettings)
    settings = settings.model_copy(
        update={"interpolation": "bilinear", "batch_size": batch_size, "workers": workers, "precision": precision}
    )
    transform = T.Compose(
        [T.Resize(settings.resize), T.CenterCrop(settings.crop), T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )

    def plain() -> Values:
        loader = DataLoader(ImageFolder(str(root / "train"), transform), batch_size, num_workers=workers)
        with torch.no_grad():
            rows: Values = torch.cat([model(images) for images, _ in loader]).numpy()
        return rows

    workdir = root.parent
    data = classification.read(root)
    job = Job(backbone, root, CATALOGUE["knn-dino@1"], 0, torch.device("cpu"), workdir, workdir / "features")
    frozen = freeze(backbone, job.device, [view_of(job, settings)])

    def ours() -> Values:
        (features,) = extract(replace(job, fresh=True), frozen, data.train, settings)
        return np.array(features.values)

    return plain, ours


def main() -> None:
    """Print the measurement as JSON."""
    parser = argparse.ArgumentParser(description="images per second of a plain evaluation loop and of ours")
    parser.add_argument("--arch", action="append", help="resnet18, resnet50, … (default: both of these)")
    parser.add_argument("--backbone", help="a file in their place, whose features mean something")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    sources = [args.backbone] if args.backbone else [f"random:{arch}" for arch in args.arch or ("resnet18", "resnet50")]
    for source in sources:
        found = measure(
            source,
            images=args.images,
            repeats=args.repeats,
            threads=args.threads,
            workers=args.workers,
            batch_size=args.batch_size,
            precision=args.precision,
        )
        print(json.dumps(found))


if __name__ == "__main__":
    main()
