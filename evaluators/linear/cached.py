"""The task `linear-cached`: linear classifiers on cached features, without augmentation: by L-BFGS and by SGD.

The headline is L-BFGS's: it solves a convex problem with one hyper-parameter, which is chosen on held-out training
images. Each fit goes on until the gradient says that it is solved: where the solver starts, how it rounds and in how
many processes are no part of the number. The head by SGD, beside it, depends on the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.distributed import gather_values
from evaluators import by_products
from evaluators.datasets import classification
from evaluators.datasets.labels import hold_out, one_class_an_image
from evaluators.features.compute import Features, notes_of
from evaluators.features.extract import extract, view_of
from evaluators.features.frozen import freeze
from evaluators.job import Job, Metric, Outcome
from evaluators.linear import search
from evaluators.linear.heads import Heads, start
from evaluators.linear.logistic import Logistic, Rows, fit, zeros
from evaluators.linear.resume import Unfinished
from evaluators.linear.training import Diverged, EpochOfBatches, train
from evaluators.predictions import accuracy
from evaluators.predictions import rank as ranked
from evaluators.settings.logistic import CachedSettings


def evaluate(job: Job) -> Outcome:
    """Run a protocol on cached features; writes `regularisation.csv` and the by-products to the job's folder.

    The metrics are `top1` and `top5` (L-BFGS), `top1_sgd` and `top5_sgd`, in percent over the validation images. An
    evaluation that was cut off goes on behind the last λ, the last fit or the last epoch of SGD that was done.

    Raises:
        UserError: for a data set that is no image folder, or no class that has two training images.
        CheckFailed: if the receipt does not hold, a feature or an objective is not finite, or every learning rate of
            SGD diverged.
    """
    settings = job.protocol.settings
    assert isinstance(settings, CachedSettings), settings.task
    data = classification.read(job.data)
    one_class_an_image(data)
    kept, out = hold_out(data.train, settings.held_out, settings.held_out_seed, len(data.classes))
    frozen = freeze(job.backbone, job.device, [view_of(job, settings)])
    (bank,), (val,) = (extract(job, frozen, split, settings) for split in (data.train, data.val))
    receipt = frozen.still_frozen()

    problem = _Problem(job, settings, bank, kept, out, len(data.classes))
    val_features = val.tensor(job.device)
    # All at once, before any work: a job that is done afresh forgets them here.
    lbfgs, choice, last = (Unfinished(job, data.card.fingerprint, name) for name in ("lbfgs", "sgd-choice", "sgd-last"))
    found = {"lbfgs": problem.by_lbfgs(lbfgs), "sgd": problem.by_sgd(choice, last)}
    # One process's numbers: equal classifiers in all of them are no reason to trust the last bit.
    top = gather_values({name: _rank(each, val_features) for name, each in found.items()})[0]
    first = {name: each[:, 0] for name, each in top.items()}
    by_products.write(job.workdir, data, found["lbfgs"].logits(val_features), first)
    metrics = tuple(
        Metric(
            name=f"top{k}" + ("" if name == "lbfgs" else f"_{name}"),
            value=accuracy(each, val.labels, k),
            unit="%",
            higher_is_better=True,
            n=len(data.val),
        )
        for name, each in top.items()
        for k in (1, 5)
    )
    notes = (*notes_of(bank, val), *found["lbfgs"].notes, *found["sgd"].notes)
    return Outcome(metrics=metrics, receipt=receipt, dataset=data.card, notes=notes)


@dataclass(frozen=True)
class _Classifier:
    weight: Tensor
    """C×D."""
    bias: Tensor
    """C."""
    notes: tuple[str, ...]

    def logits(self, features: Tensor) -> Tensor:
        """N×D -> N×C."""
        return torch.addmm(self.bias.to(features), features, self.weight.to(features).T)


def _rank(classifier: _Classifier, features: Tensor) -> NDArray[np.int64]:
    """N×5."""
    blocks = [ranked(classifier.logits(block)) for block in torch.split(features, 1 << 14)]
    best: NDArray[np.int64] = torch.cat(blocks).cpu().numpy()
    return best


@dataclass(frozen=True)
class _Problem:
    """Training features, and which of them are held out."""

    job: Job
    settings: CachedSettings
    bank: Features
    kept: NDArray[np.int64]
    out: NDArray[np.int64]
    classes: int

    def rows(self, indices: NDArray[np.int64]) -> Rows:
        dtype = torch.float32 if self.settings.solver_precision == "float32" else torch.float64
        return Rows(self.bank.values, self.bank.labels, indices, device=self.job.device, dtype=dtype)

    def by_lbfgs(self, unfinished: Unfinished) -> _Classifier:
        """Choose λ on the held-out images, then fit to all."""
        settings, last = self.settings, zeros(self.bank.values.shape[1], self.classes, self.job.device)
        state = {"weight": last.weight, "bias": last.bias}
        facts = unfinished.load(state) or {"attempts": []}
        done: list[search.Attempt] = [(*each,) for each in facts["attempts"]]
        chosen = self._choose(last, done, lambda write: unfinished.save(state, {"attempts": done}, write))
        if "end" not in facts:
            final = self._fit(self.rows(np.arange(len(self.bank.labels))), last, chosen)
            last.weight.copy_(final.weight)
            last.bias.copy_(final.bias)
            words = "converged" if final.converged else f"did NOT converge ({final.reason})"
            facts = {"attempts": done, "end": f"{words} after {final.iterations} iterations"}
            unfinished.save(state, facts, lambda: None)
        notes = [
            f"L-BFGS: λ {chosen:g} chosen on {len(self.out)} held-out training images; the fit to all "
            f"{len(self.bank.labels)} {facts['end']}"
        ]
        open_ = sum(not converged for _, _, _, converged, _ in done)
        if open_:
            notes.append(f"L-BFGS: {open_} of {len(done)} values of λ did not converge: {search.TABLE} says why")
        return _Classifier(last.weight, last.bias, (*notes, *search.edge_note(settings, chosen)))

    def _choose(
        self, last: Logistic, done: list[search.Attempt], save: Callable[[Callable[[], object]], None]
    ) -> float:
        """The best λ; `last` becomes the solution for the last of them, from which the fit to all images starts."""
        kept, out = self.rows(self.kept), self.rows(self.out)

        def attempt(penalty: float) -> tuple[float, int, bool, str]:
            solution = self._fit(kept, last, penalty)
            last.weight.copy_(solution.weight)
            last.bias.copy_(solution.bias)
            score = search.top1(search.hits(out, solution))
            return score, solution.iterations, solution.converged, solution.reason

        def keep(attempts: list[search.Attempt]) -> None:
            save(lambda: search.write_attempts(self.job.workdir / search.TABLE, attempts))

        return search.search(self.settings, attempt, done, keep, converged_first=True)

    def _fit(self, rows: Rows, start: Logistic, penalty: float) -> Logistic:
        return fit(rows, start, penalty=penalty, iterations=self.settings.iterations, tolerance=self.settings.tolerance)

    def by_sgd(self, choice: Unfinished, last: Unfinished) -> _Classifier:
        """Choose the learning rate on the held-out images, then train on all."""
        settings, diverged = self.settings, Diverged()
        lrs = sorted(settings.sgd_lrs)
        heads = self._trained(lrs, self.kept, diverged, choice)
        values = torch.tensor(self.bank.values[self.out], device=self.job.device)
        places = heads.places(values, torch.tensor(self.bank.labels[self.out], device=self.job.device))
        right = (places == 0).sum(dim=0).tolist()
        best = max((head for head in range(len(lrs)) if head not in diverged.heads), key=lambda head: right[head])
        final = self._trained([lrs[best]], np.arange(len(self.bank.labels)), Diverged(), last)
        notes = [f"SGD: lr {lrs[best]:g} of {len(lrs)} chosen on the same images, then trained on all"]
        if len(lrs) > 2 and best in (0, len(lrs) - 1):
            notes.append(f"SGD: lr {lrs[best]:g} is at the edge of the grid: the best may lie beyond")
        if diverged.heads:
            notes.append(f"SGD: lr {', '.join(f'{lrs[head]:g}' for head in sorted(diverged.heads))} diverged")
        return _Classifier(final.weight[0], final.bias[0], tuple(notes))

    def _trained(
        self, lrs: Sequence[float], indices: NDArray[np.int64], diverged: Diverged, unfinished: Unfinished
    ) -> Heads:
        settings, seed = self.settings, self.job.seed
        weight = start(self.bank.values.shape[1], self.classes, settings.init_std, seed)
        heads = Heads(
            weight.expand(len(lrs), -1, -1).to(self.job.device),
            lr=lrs,
            weight_decay=[0.0] * len(lrs),
            momentum=settings.sgd_momentum,
        )
        facts = unfinished.load(heads.state()) or {"epochs": 0, "diverged": []}
        diverged.heads.update(facts["diverged"])
        for epoch in train(
            heads,
            self._batches(indices),
            epochs=settings.sgd_epochs,
            milestones=settings.sgd_milestones,
            n=len(indices),
            seed=seed,
            first=facts["epochs"],
            diverged=diverged,
            label="SGD",
        ):
            facts = {"epochs": epoch.number, "diverged": list(diverged.heads.items())}
            unfinished.save(heads.state(), facts, lambda: None)
        return heads

    def _batches(self, indices: NDArray[np.int64]) -> EpochOfBatches:
        """Rows of the cache, gathered batch by batch: no more than a batch is in memory."""

        def epoch(_: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
            rows = indices[np.asarray(order)]
            for first in range(0, len(rows), self.settings.sgd_batch_size):
                part = rows[first : first + self.settings.sgd_batch_size]
                x = torch.from_numpy(self.bank.values[part]).to(self.job.device)
                yield x, torch.from_numpy(self.bank.labels[part]).to(self.job.device)

        return epoch
