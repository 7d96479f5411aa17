"""Images per second of one core through the two input pipelines, side by side, and how far their pictures are apart.

    python -m benchmarks.input_pipeline --recipe moco-v2@1

Both are timed in one process, in turns of a few images, by processor time: what else the machine does then falls on
both alike. The images are generated: photographs that come with scikit-learn and scikit-image, cut at random, resampled
to the sizes below, with grain, so that a JPEG of quality 92 takes about the half byte a pixel that ImageNet's take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import functional

from converters.metadata import IMAGENET_STD
from pretrain.input import operations
from pretrain.input.augment import finisher, view_maker
from pretrain.input.decode import decode, resized_crop, shrink
from pretrain.input.draws import Draws
from pretrain.recipes import Recipe, find_recipe

SIZES = {
    "typical": ((500, 375), (375, 500), (500, 333), (500, 375), (480, 360), (333, 500), (500, 500), (400, 300)),
    "large": ((1200, 900), (1024, 768), (900, 1200), (1600, 1200)),
}
"""Width × height. ImageNet's are 500 × 375 more often than anything else, 400 × 350 on average."""
GRAIN = 5.0
"""Standard deviation of the noise that is added, levels."""
TURN = 4
"""Images after which the other pipeline is timed."""


def photographs() -> list[Image.Image]:
    """Those that come with two libraries; nothing is downloaded."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [
        Image.fromarray(np.asarray(array)).convert("RGB")
        for array in (*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    ]


def make_jpegs(folder: Path, sizes: Sequence[tuple[int, int]], count: int, *, seed: int = 0) -> list[Path]:
    """`count` JPEGs of these sizes in turn, each another cut of a photograph."""
    generator = np.random.default_rng(seed)
    sources, paths = photographs(), []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        source = sources[number % len(sources)]
        share = generator.uniform(0.7, 1) * min(source.width / width, source.height / height)
        left, top = (
            generator.uniform(0, side) for side in (source.width - width * share, source.height - height * share)
        )
        box = (left, top, left + width * share, top + height * share)
        pixels = np.asarray(source.resize((width, height), Image.Resampling.LANCZOS, box=box), dtype=np.float32)
        pixels = pixels + generator.normal(0, GRAIN, (height, width, 1))
        path = folder / f"{number:04d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        paths.append(path)
    return paths


def make_images(folder: Path, count: int) -> Path:
    """A folder of `count` JPEGs of typical sizes."""
    make_jpegs(folder, SIZES["typical"], count)
    return folder


def measure(recipe_id: str = "moco-v2@1", *, images: int = 32, rounds: int = 5) -> dict[str, Any]:
    """Both pipelines and the parts of ours, for each set of sizes.

    Returns:
        For each set: images, mean bytes, `torchvision` and `batched` in images per second and core (median round),
        `ratio` (median of the rounds' ratios) with its least and largest; the same from the shortest time of each turn
        (`_quietest`), which other work on the machine spoils least; `milliseconds` an image, of the parts and of the
        floors: what ours cannot go below without decoding or resizing otherwise.
    """
    recipe = find_recipe(recipe_id)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return {
                name: _measured(recipe, make_jpegs(_made(Path(folder) / name), sizes, images), rounds)
                for name, sizes in SIZES.items()
            }
    finally:
        torch.set_num_threads(threads)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _measured(recipe: Recipe, paths: list[Path], rounds: int) -> dict[str, Any]:
    runs = [pipeline(recipe, name) for name in ("torchvision", "batched")]
    turns = [paths[start : start + TURN] for start in range(0, len(paths), TURN)]
    times = np.zeros((rounds + 1, len(turns), 2))
    for round_ in times:
        for turn, some in enumerate(turns):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                round_[turn, which] = _seconds(lambda run=runs[which], some=some: run(some))
    times = times[1:]  # the first warms up
    whole = times.sum(axis=1)  # rounds × 2
    quietest = times.min(axis=0).sum(axis=0)
    ratios = whole[:, 0] / whole[:, 1]
    return {
        "images": len(paths),
        "bytes": round(statistics.mean(path.stat().st_size for path in paths)),
        "torchvision": round(len(paths) / float(np.median(whole[:, 0])), 1),
        "batched": round(len(paths) / float(np.median(whole[:, 1])), 1),
        "ratio": round(float(np.median(ratios)), 2),
        "ratio_least": round(float(ratios.min()), 2),
        "ratio_largest": round(float(ratios.max()), 2),
        "torchvision_quietest": round(len(paths) / quietest[0], 1),
        "batched_quietest": round(len(paths) / quietest[1], 1),
        "ratio_quietest": round(quietest[0] / quietest[1], 2),
        "milliseconds": _parts(recipe, paths, rounds),
    }


def pipeline(recipe: Recipe, name: str) -> Callable[[list[Path]], tuple[Tensor, Tensor]]:
    """Paths -> im_q and im_k, as a loading process and the training process make them together."""
    chosen = recipe.model_copy(update={"pipeline": name})
    maker, finish = view_maker(chosen, 0), finisher(chosen)

    def run(paths: list[Path]) -> tuple[Tensor, Tensor]:
        samples = []
        for number, path in enumerate(paths):
            with Image.open(path) as image:
                samples.append(maker(image, 0, number))
        return finish(tuple(default_collate(samples)), torch.device("cpu"))

    return run


def _parts(recipe: Recipe, paths: list[Path], rounds: int) -> dict[str, float]:
    """Milliseconds an image, the quickest round's; the parts of ours in turn with each other."""
    draws, size = Draws(recipe, 0), recipe.image_size
    sides = [Image.open(path).size for path in paths]
    views = [[draws(*side, 0, number, view) for view in (0, 1)] for number, side in enumerate(sides)]
    factors = [shrink([view.crop for view in pair], size) for pair in views]
    pixels = [decode(Image.open(path), factor)[0] for path, factor in zip(paths, factors, strict=True)]
    ours = recipe.model_copy(update={"pipeline": "batched"})
    maker, finish = view_maker(ours, 0), finisher(ours)
    batch = tuple(default_collate([maker(Image.open(path), 0, number) for number, path in enumerate(paths)]))
    one_pass = torch.rand(3, size, size)

    def passes() -> None:
        for _ in range(2 * len(paths)):
            one_pass.mul_(1.0)

    parts: dict[str, Callable[[], object]] = {
        "decode, whole": lambda: [Image.open(path).load() for path in paths],
        "decode, at a fraction": lambda: [decode(Image.open(path), f) for path, f in zip(paths, factors, strict=True)],
        "draws of two views": lambda: [
            draws(*side, 0, number, view) for number, side in enumerate(sides) for view in (0, 1)
        ],
        "two resized crops": lambda: [
            resized_crop(array, view.crop, factor, size)
            for array, pair, factor in zip(pixels, views, factors, strict=True)
            for view in pair
        ],
        "augmentation of two views": lambda: finish(batch, torch.device("cpu")),
        "one pass over two views": passes,
    }
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            spent[name].append(1000 * _seconds(part) / len(paths))
    return {name: round(min(times), 3) for name, times in spent.items()}


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def deviation(recipe_id: str = "moco-v2@1", *, images: int = 24) -> dict[str, dict[str, float]]:
    """Largest and mean |Δ| between the batched and the PIL pipeline in levels (1/255), with the same draws.

    For each operation on the same pixels with random parameters, and for the whole of either pipeline.
    """
    recipe = find_recipe(recipe_id)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, dict[str, float]] = {}
        for name, sizes in SIZES.items():
            paths = make_jpegs(_made(Path(folder) / name), sizes, images)
            levels = 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)
            results = [pipeline(recipe, which)(paths) for which in ("torchvision", "batched")]
            apart = [(levels * (plain - ours)).abs() for plain, ours in zip(*results, strict=True)]
            found[f"whole pipeline, {name}"] = _summary(apart)
            if name == "typical":
                found = {**_per_operation(recipe, paths, generator), **found}
        return found


def _per_operation(recipe: Recipe, paths: list[Path], generator: np.random.Generator) -> dict[str, dict[str, float]]:
    size = recipe.image_size
    apart: dict[str, list[Tensor]] = {}
    for number, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        crop = Draws(recipe, 0)(*image.size, 0, number, 0).crop
        top, left, height, width = crop
        box = (left, top, left + width, top + height)
        square = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
        apart.setdefault("resized crop", []).append(_levels(square) - resized_crop(np.asarray(image), crop, 1, size))
        factor, shift = float(generator.uniform(0.6, 1.4)), float(generator.uniform(-0.1, 0.1))
        sigma = float(generator.uniform(*recipe.blur_radius))
        pairs: dict[str, tuple[Image.Image, Callable[[Tensor, Tensor], Tensor], float]] = {
            "brightness": (ImageEnhance.Brightness(square).enhance(factor), operations.adjust_brightness, factor),
            "contrast": (ImageEnhance.Contrast(square).enhance(factor), operations.adjust_contrast, factor),
            "saturation": (ImageEnhance.Color(square).enhance(factor), operations.adjust_saturation, factor),
            "hue": (functional.adjust_hue(square, shift), operations.adjust_hue, shift),
            "grey": (square.convert("L").convert("RGB"), lambda one, _: operations.rgb_to_grayscale(one), 0.0),
            "blur": (square.filter(ImageFilter.GaussianBlur(sigma)), operations.gaussian_blur, sigma),
        }
        for name, (plain, operation, parameter) in pairs.items():
            ours = operation(_levels(square).unsqueeze(0) / 255, torch.tensor([parameter])).squeeze(0)
            apart.setdefault(name, []).append(_levels(plain) - 255 * ours)
    return {name: _summary(differences) for name, differences in apart.items()}


def _levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def _summary(differences: list[Tensor]) -> dict[str, float]:
    every = torch.cat([difference.abs().flatten() for difference in differences])
    return {"largest": round(every.max().item(), 2), "mean": round(every.mean().item(), 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="moco-v2@1", help="whose augmentation and size (default: moco-v2@1)")
    parser.add_argument("--images", type=int, default=32, help="of each set of sizes (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: 5)")
    chosen = parser.parse_args(arguments)
    speed = measure(chosen.recipe, images=chosen.images, rounds=chosen.rounds)
    print(json.dumps({"speed": speed, "deviation": deviation(chosen.recipe)}, indent=2))


if __name__ == "__main__":
    main()
