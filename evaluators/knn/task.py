"""The task `knn`: a vote among the nearest training images in feature space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from converters import distributed
from converters.errors import UserError
from evaluators.datasets import classification
from evaluators.datasets.labelled import LabelledImages
from evaluators.features.compute import Features, notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.features.layers import EMBEDDING, POOLED
from evaluators.job import Job, Metric, Outcome
from evaluators.knn import agreement
from evaluators.knn.neighbours import find_neighbours, labels_have_classes
from evaluators.knn.vote import TOP, Ballot, chance, margin, rank_classes
from evaluators.mistakes import write_mistakes
from evaluators.predictions import accuracy, write_predictions
from evaluators.settings.knn import KnnSettings

_RANDOM_TIES = "_random_ties"


def evaluate(job: Job) -> Outcome:
    """Run a kNN protocol; writes `predictions.npz` and the headline's mistakes to the job's folder.

    The metrics are `top1_k20`, `top5_k20`, ... in percent over the validation images. A majority vote adds
    `top1_k20_random_ties`, the mean over all ways to break its ties. A search that is not exact adds `found_k20`, the
    percentage of the 20 nearest neighbours that it found, and `same_top1_k20`, that of equal predictions, both over a
    sample of the validation images.

    Raises:
        UserError: for data of another kind, or a k list without the headline's k.
        NotApplicable: if the protocol wants the embedding of a projection head and the backbone has none.
        CheckFailed: if the receipt does not hold, a feature is not finite or a label has no class.
    """
    settings = job.protocol.settings
    assert isinstance(settings, KnnSettings), settings.task
    ballots = ballots_of(settings)
    _headline_is_measured(job.protocol.headline, ballots)
    data = classification.read(job.data)
    frozen = freeze(job.backbone, job.device, [view_of(job, settings)])
    layers = (EMBEDDING if settings.layer == "head" else POOLED,)
    (bank,), (queries,) = (extract(job, frozen, split, settings, layers) for split in (data.train, data.val))
    receipt = frozen.still_frozen()

    # One part a process, in the order of ranks.
    parts = distributed.gather_values(
        distributed.together(lambda: _Part.of(job, bank, queries, ballots, len(data.classes)))
    )
    ranked = {ballot: np.concatenate([part.ranked[ballot] for part in parts]) for ballot in ballots}
    margins = np.concatenate([part.margins for part in parts])
    distributed.together(lambda: _write(job, data, ranked, margins))
    measured = {name: np.concatenate([part.measured[name] for part in parts]) for name in parts[0].measured}
    return Outcome(
        metrics=(
            *(
                _percent(f"top{top}_k{ballot.k}", accuracy(ranked[ballot], queries.labels, top), len(data.val))
                for ballot in ballots
                for top in (1, TOP)
            ),
            *(_percent(name, 100.0 * float(values.mean()), len(values)) for name, values in measured.items()),
        ),
        receipt=receipt,
        dataset=data.card,
        head=job.backbone.head.fingerprint if settings.layer == "head" and job.backbone.head is not None else None,
        notes=(
            *notes_of(bank, queries),
            *dict.fromkeys(part.engine for part in parts),
            *_notes(ballots, bank, len(data.classes)),
        ),
    )


def ballots_of(settings: KnnSettings) -> tuple[Ballot, ...]:
    """One for each k."""
    return tuple(Ballot(k, settings.vote, settings.temperature) for k in dict.fromkeys(settings.k))


class _Part:
    """What this process found: its share of the validation images."""

    def __init__(self, engine: str, ranked: Mapping[Ballot, NDArray[np.int64]], margins: NDArray[np.float64]) -> None:
        self.engine, self.ranked, self.margins = engine, ranked, margins
        self.measured: dict[str, NDArray[np.float64]] = {}
        """For metrics that are means: their values, one an image, 0 to 1."""

    @classmethod
    def of(cls, job: Job, bank: Features, queries: Features, ballots: Sequence[Ballot], num_classes: int) -> _Part:
        """Search and vote."""
        settings = job.protocol.settings
        assert isinstance(settings, KnnSettings), settings.task
        labels_have_classes(queries.labels, num_classes, "validation")
        count, rank, size = len(queries.labels), distributed.rank(), distributed.size()
        first, last = count * rank // size, count * (rank + 1) // size
        values, targets = queries.values[first:last], queries.labels[first:last]
        label = "kNN search" if rank == 0 else None
        near = find_neighbours(bank, values, settings, num_classes=num_classes, device=job.device, label=label)
        ranked = dict(zip(ballots, rank_classes(near.similarities, near.labels, ballots), strict=True))
        first_choice = _headline(job.protocol.headline, ballots)
        part = cls(near.engine, ranked, margin(near.similarities, near.labels, targets, first_choice))
        for ballot in ballots:
            if ballot.rule == "majority":
                chances = chance(near.similarities, near.labels, targets, ballot)
                part.measured[f"top1_k{ballot.k}{_RANDOM_TIES}"] = chances
        if settings.search != "exact":
            sample = agreement.sample(count)
            mine = sample[(sample >= first) & (sample < last)] - first
            exactly = settings.model_copy(update={"search": "exact"})
            truth = find_neighbours(
                bank, values[mine], exactly, num_classes=num_classes, device=job.device, label=label
            )
            rankings = rank_classes(truth.similarities, truth.labels, ballots)
            for ballot, ranking in zip(ballots, rankings, strict=True):
                part.measured[f"found_k{ballot.k}"] = agreement.found(near.indices[mine], truth.indices, ballot.k)
                same = ranked[ballot][mine, 0] == ranking[:, 0]
                part.measured[f"same_top1_k{ballot.k}"] = same.astype(np.float64)
        return part


def _write(
    job: Job, data: LabelledImages, ranked: Mapping[Ballot, NDArray[np.int64]], margins: NDArray[np.float64]
) -> None:
    if distributed.rank() == 0:
        write_predictions(job.workdir, data, {f"k{ballot.k}": classes[:, 0] for ballot, classes in ranked.items()})
        write_mistakes(job.workdir, data, ranked[_headline(job.protocol.headline, tuple(ranked))][:, 0], margins)


def _headline(name: str, ballots: Sequence[Ballot]) -> Ballot:
    """The ballot whose number is shown."""
    return next(ballot for ballot in ballots if ballot.k == headline_k(name))


def headline_k(name: str) -> int:
    """The k of a metric such as `top1_k20` or `top1_k20_random_ties`."""
    return int(name.split("_")[1].removeprefix("k"))


def _notes(ballots: Sequence[Ballot], bank: Features, num_classes: int) -> Iterable[str]:
    images = len(bank.labels)
    if capped := ", ".join(str(ballot.k) for ballot in ballots if ballot.k > images):
        yield f"k {capped} capped at the {images} training images"
    if absent := num_classes - len(np.unique(bank.labels)):
        yield f"{absent} of {num_classes} classes have no training image, so none of their images can be right"


def _percent(name: str, value: float, n: int) -> Metric:
    return Metric(name=name, value=value, unit="%", higher_is_better=True, n=n)


def _headline_is_measured(headline: str, ballots: Sequence[Ballot]) -> None:
    if headline_k(headline) not in [ballot.k for ballot in ballots]:
        raise UserError(
            expected=f"a list of k that gives the headline {headline}",
            found=str([ballot.k for ballot in ballots]),
            where="settings.k",
            cure=f"keep {headline_k(headline)} in it",
        )
    if headline.endswith(_RANDOM_TIES) and any(ballot.rule != "majority" for ballot in ballots):
        raise UserError(
            expected=f"a majority vote, which gives the headline {headline}", found="weighted", where="settings.vote"
        )
