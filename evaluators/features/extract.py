"""Features by name: from the cache where they are, else computed once, by all processes together, and kept."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.distributed import gather_values, rank, size, together
from converters.errors import CheckFailed, UserError
from converters.fingerprint import fingerprint
from converters.lock import in_turn
from converters.progress import Progress
from converters.projection import ProjectionHead
from evaluators.datasets.labelled import Split
from evaluators.features import header, network
from evaluators.features.cache import CHUNK, Entry
from evaluators.features.compute import Features, check_finite
from evaluators.features.frozen import Frozen
from evaluators.features.header import Identity, Made
from evaluators.features.layers import POOLED, Layer
from evaluators.features.network import Network
from evaluators.images import Batches, Images, View, centre_view
from evaluators.job import Job
from evaluators.protocol import NotApplicable
from evaluators.settings.base import FeatureSettings

_ROUND = 8
"""Chunks that a process does before all hear of each other's errors."""
_SAMPLE = 8
"""Images on which the folded network is held against the module."""


def view_of(job: Job, settings: FeatureSettings) -> View:
    """The view that these settings ask for, as the job's backbone wants its input."""
    return centre_view(
        job.backbone.preprocess,
        resize=settings.resize,
        crop=settings.crop,
        interpolation=settings.interpolation,
        geometry=settings.geometry,
    )


def extract(
    job: Job,
    frozen: Frozen,
    split: Split,
    settings: FeatureSettings,
    layers: Sequence[Layer] = (POOLED,),
    *,
    chunk: int | None = None,
) -> tuple[Features, ...]:
    """The features of a split's images in their order, one `Features` a layer, memory-mapped from the cache.

    What the cache lacks is computed in one pass for all layers; under a process group the images are shared. A second
    run that wants the same features meanwhile waits for the first.

    Args:
        job: whose backbone it is, and where the cache lies.
        frozen: the live backbone.
        split: N images, at least one.
        settings: the view, the precision, the batch.
        layers: which features.
        chunk: images whose features are kept together; by default 512, or so few that each process has four parts.

    Raises:
        UserError: for an image that cannot be decoded, or a layer whose map is smaller than its pooling.
        NotApplicable: for the layer `head` of a backbone without a projection head.
        CheckFailed: if a feature is NaN or infinite, naming the image; for a cache that is damaged; for a full disk.
    """
    if chunk is None:
        chunk = min(CHUNK, -(-len(split) // (4 * size())))
    stamp = gather_values(header.stamp(split.paths) if rank() == 0 else "")[0]
    entries = {
        layer: Entry(job.features, _identity(job, split, settings, layer), len(split), chunk, stamp) for layer in layers
    }
    with ExitStack() as held:
        missing = _missing(entries, fresh=job.fresh)
        if rank() == 0 and not job.fresh and any(entries[layer].finished for layer in missing):
            sys.stderr.write(f"{split.name} features: files of images changed since; they are computed anew\n")
        if missing:
            together(lambda: _claim(held, [entries[layer] for layer in missing]))
            missing = _missing(entries, fresh=job.fresh)  # another process may have made them meanwhile
        if missing:
            entries |= _fill(job, frozen, split, settings, {layer: entries[layer] for layer in missing})
    # One process holds the bytes against their checksums; those just made were held when they were finished.
    together(lambda: [entries[layer].open() for layer in entries if layer not in missing] if rank() == 0 else None)
    opened = together(lambda: {layer: entry.open(proved=True) for layer, entry in entries.items()})
    here = header.made(job.device.type, folded=True)
    notes = {layer: entry.made.note(here, f"{split.name} features") for layer, entry in entries.items()}
    return tuple(Features(opened[layer], split.labels, notes[layer]) for layer in layers)


def _identity(job: Job, split: Split, settings: FeatureSettings, layer: Layer) -> Identity:
    backbone = job.backbone
    return Identity(
        backbone=backbone.fingerprint,
        preprocess=backbone.preprocess,
        stride_in_1x1=backbone.stride_in_1x1,
        source=split.source,
        split=split.name,
        view=header.View(
            geometry=settings.geometry,
            resize=settings.resize,
            crop=settings.crop,
            interpolation=settings.interpolation,
        ),
        layer=layer,
        precision=settings.precision,
        head=_head(job).fingerprint if layer.stage == "head" else None,
    )


def _head(job: Job) -> ProjectionHead:
    head = job.backbone.head
    if head is None:
        raise NotApplicable(
            expected="a backbone with its projection head, for features behind it",
            found="none beside the backbone",
            where=job.backbone.origin.file,
            cure="convert it from a checkpoint that has its head, or use a protocol on pooled res5",
        )
    return head


def _missing(entries: dict[Layer, Entry], *, fresh: bool) -> tuple[Layer, ...]:
    """The layers that must be computed, as the main process sees it."""
    return gather_values(
        tuple(layer for layer, entry in entries.items() if fresh or not entry.finished or entry.stale)
    )[0]


def _claim(held: ExitStack, entries: Sequence[Entry]) -> None:
    if rank() == 0:
        for entry in sorted(entries, key=lambda entry: entry.identity.key):  # in one order: nobody waits in a circle
            held.enter_context(in_turn(entry.lock, f"computes the same features ({entry.identity.split})"))


def _fill(
    job: Job, frozen: Frozen, split: Split, settings: FeatureSettings, entries: dict[Layer, Entry]
) -> dict[Layer, Entry]:
    """Compute what is missing, all processes together, and finish the caches."""
    # A former try's chunks go on in their size, however many processes it had: where layers left several sizes, in the
    # first one's, and the others begin anew.
    begun = gather_values([] if job.fresh else [entry.begun_chunk for entry in entries.values()])[0]
    if chunk := next((size for size in begun if size is not None), None):
        entries = {layer: replace(entry, chunk=chunk) for layer, entry in entries.items()}
    net = together(lambda: _network(job, frozen, split, settings, tuple(entries)))
    by = header.made(job.device.type, folded=net.folded)
    dims = dict(zip(entries, net.dims, strict=True))
    mine = together(lambda: _begin(entries, dims, by, fresh=job.fresh) if rank() == 0 else {})
    done = gather_values(mine)[0]
    chunks = next(iter(entries.values())).chunks
    todo = [index for index in range(chunks) if any(index not in done[layer] for layer in entries)]
    try:
        _Pass(job, net, split, view_of(job, settings), settings, entries, done).share(todo)
    except (UserError, CheckFailed):
        _prove(job, frozen, net, entries)  # what is kept for the next try must be the backbone's too
        raise
    _prove(job, frozen, net, entries)
    frozen.networks.remove(net)  # it computes nothing more
    together(partial(_finish, entries))
    return entries


def _prove(job: Job, frozen: Frozen, net: Network, entries: dict[Layer, Entry]) -> None:
    """Prove that what computed is what was held against the backbone; else nothing that it computed is kept."""
    try:
        frozen.still_frozen()
        together(lambda: _live_head(job, net.module.head))
    except CheckFailed:
        if rank() == 0:
            for entry in entries.values():
                entry.abandon()
        raise


def _live_head(job: Job, head: nn.Module | None) -> None:
    """Prove that the head that computes is the backbone's, bit for bit."""
    if head is None:
        return
    expected, live = _head(job).fingerprint, fingerprint(head.state_dict())
    if live != expected:
        raise CheckFailed(
            f"receipt: the live projection head is not the backbone's: expected the fingerprint {expected[:12]}, "
            f"found {live[:12]}"
        )


def _network(job: Job, frozen: Frozen, split: Split, settings: FeatureSettings, layers: tuple[Layer, ...]) -> Network:
    head: nn.Module | None = None
    if any(layer.stage == "head" for layer in layers):
        head = _head(job).module().to(job.device)
        _live_head(job, head)
    view = view_of(job, settings)
    pixels = torch.stack([view.pixels(split.load(index)) for index in range(min(_SAMPLE, len(split)))])
    sample = view.to_input.of_pixels(pixels.to(job.device))
    net = frozen.prepare(head, layers, precision=settings.precision, sample=sample)
    if not net.folded and rank() == 0:
        sys.stderr.write(
            f"{split.name} features: BN stays by itself, since folded into the convolutions it would change features "
            f"by {net.deviation:.1e}, more than {network.TOLERANCE:.0e}\n"
        )
    return net


def _begin(
    entries: dict[Layer, Entry], dims: dict[Layer, int], by: Made, *, fresh: bool
) -> dict[Layer, frozenset[int]]:
    """The chunks that former tries left; room for the rest is looked for now, not after hours."""
    done = {layer: entry.begin(dims[layer], by, anew=fresh) for layer, entry in entries.items()}
    needed = sum(entry.missing_bytes(dims[layer], len(done[layer])) for layer, entry in entries.items())
    root = next(iter(entries.values())).root
    free = shutil.disk_usage(root).free
    if needed > free:
        raise CheckFailed(
            f"{root}: expected room for {_bytes(needed)} of features, found {_bytes(free)} free; "
            "make room, or give another folder with -o"
        )
    return done


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.4g} MB"


def _finish(entries: dict[Layer, Entry]) -> None:
    if rank() == 0:
        for entry in entries.values():
            entry.finish()


@dataclass(frozen=True)
class _Pass:
    """One pass over the images that are missing, for all layers."""

    job: Job
    net: Network
    split: Split
    view: View
    settings: FeatureSettings
    entries: dict[Layer, Entry]
    done: dict[Layer, frozenset[int]]

    def share(self, todo: Sequence[int]) -> None:
        """Compute this process's part of the chunks; the others compute theirs.

        Raises:
            UserError, CheckFailed: in every process if any of them met one; the chunks before it are kept.
        """
        entry = next(iter(self.entries.values()))
        mine = todo[rank() :: size()]
        batches = Batches(
            Images(self.split, self.view.pixels),
            batch_size=self.settings.batch_size,
            workers=self.settings.workers,
            pin=self.job.device.type == "cuda",
        )
        # The main process speaks for all: shares differ by one chunk.
        stream = None if rank() == 0 else StringIO()
        total = sum(len(entry.rows(index)) for index in mine)
        with Progress(f"{self.split.name} features", total, unit="img", stream=stream) as progress:
            for start in range(0, -(-len(todo) // size()), _ROUND):
                together(partial(self._compute, mine[start : start + _ROUND], batches, progress))

    def _compute(self, chunks: Sequence[int], batches: Batches, progress: Progress) -> None:
        groups = [next(iter(self.entries.values())).rows(index) for index in chunks]
        arriving = batches.grouped(0, groups)
        for chunk, rows in zip(chunks, groups, strict=True):
            parts: dict[Layer, list[NDArray[np.float32]]] = {layer: [] for layer in self.entries}
            count = 0
            while count < len(rows):
                pixels, _ = next(arriving)
                for layer, values in zip(self.entries, self._features(pixels), strict=True):
                    check_finite(values, self.split, rows[count:])
                    parts[layer].append(values)
                count += len(pixels)
                progress.step(len(pixels))
            for layer, entry in self.entries.items():
                if chunk not in self.done[layer]:
                    entry.write(chunk, np.concatenate(parts[layer]), rank())

    def _features(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        """B×H×W×3 of bytes -> B×D a layer."""
        images = self.view.to_input.of_pixels(pixels.to(self.job.device, non_blocking=True))
        return [output.cpu().numpy() for output in self.net(images)]
