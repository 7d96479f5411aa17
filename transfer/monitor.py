"""A look at a pretraining under way: kNN accuracy of the query encoder. Shown while it goes, and no Record."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from converters.errors import UserError
from converters.metadata import Preprocess
from evaluators.datasets import classification
from evaluators.features.compute import compute
from evaluators.images import centre_view
from evaluators.knn.neighbours import find_neighbours
from evaluators.knn.task import headline_k
from evaluators.knn.vote import Ballot, rank_classes
from evaluators.predictions import accuracy
from evaluators.protocol import find
from evaluators.protocols import CATALOGUE
from evaluators.settings.knn import KnnSettings


class KnnMonitor:
    """To be passed to `pretrain.train.pretrain`: every so many epochs the top-1 and top-5 accuracy, percent.

    Args:
        data: an image folder with `train/` and `val/`, whose labels are used.
        protocol: the id of a kNN protocol; its headline's k is used.
        every: epochs between two looks.
        epochs: the last epoch is looked at too.

    Raises:
        UserError: for another protocol, or data that is no such folder.
    """

    def __init__(self, data: Path, protocol: str, *, every: int, epochs: int) -> None:
        settings = find(protocol, CATALOGUE).settings
        if not isinstance(settings, KnnSettings):
            raise UserError(expected="a kNN protocol", found=protocol, where="--knn-protocol", cure="use knn-dino@1")
        self.settings, self.every, self.epochs = settings, every, epochs
        self.k = headline_k(find(protocol, CATALOGUE).headline)
        self.data = classification.read(data)
        self.view = centre_view(
            Preprocess(), resize=settings.resize, crop=settings.crop, interpolation=settings.interpolation
        )

    def __call__(self, epochs: int, encoder: nn.Module) -> Mapping[str, float]:
        """See `pretrain.train.Monitor`; the projection head is left out, unless the protocol wants its embedding."""
        if epochs % self.every and epochs != self.epochs:
            return {}
        features = copy.deepcopy(encoder)
        if self.settings.layer != "head":
            features.fc = nn.Identity()
        bank, queries = (
            compute(
                features,
                samples,
                self.view,
                batch_size=self.settings.batch_size,
                workers=self.settings.workers,
                label=f"kNN monitor, {split}",
            )
            for split, samples in (("train", self.data.train), ("val", self.data.val))
        )
        settings = self.settings.model_copy(update={"k": (self.k,)})
        # On the CPU: the GPU's memory belongs to the training.
        near = find_neighbours(
            bank, queries.values, settings, num_classes=len(self.data.classes), device=torch.device("cpu")
        )
        ballot = Ballot(self.k, settings.vote, settings.temperature)
        (ranked,) = rank_classes(near.similarities, near.labels, (ballot,))
        return {f"knn_top{top}": accuracy(ranked, queries.labels, top) for top in (1, 5)}
