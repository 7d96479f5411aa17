"""The frozen protocols of linear classifiers on cached features. A change of any setting needs a new version."""

from __future__ import annotations

from typing import Literal

from evaluators.protocol import Protocol
from evaluators.settings.logistic import CachedSettings, ManyshotSettings

_CACHED = (
    "Accuracy in percent of multinomial logistic regression on the pooled res5 features of the frozen backbone (not "
    "normalised, without augmentation), n = validation images: the sum of the cross-entropies over the images "
    "plus λ/2 times the squared weights, the bias free, minimised by L-BFGS in float64 until the norm of its gradient "
    "is at most a thousandth of λ‖W‖. λ is chosen on a held-out share of each class of the training set, among the "
    "values whose fit came so far within 5000 iterations, if any did; then all training images are fitted, and the "
    "notes say whether that fit converged. top1_sgd is a head trained by SGD on the same features, its lr chosen on "
    "the same held-out images; the seed orders its batches."
)

_STOPPED = (
    "Each fit starts from the one before and ends after 100 iterations at most, as in the reference: where λ is small "
    "it is NOT converged, and another order of the sums, as with other blocks or another device, moves the last points."
)
_MANYSHOT = (
    "of multinomial logistic regression on pooled res5 features (shorter side to 224 px, centre crop), n = validation "
    "images. λ is the best of 45 by this metric on the data set's own validation list if its layout has one, else on "
    f"a random fifth of the training images; then all of them are fitted. {_STOPPED}"
)
_VOC = (
    "Mean over the 20 classes of the average precision in percent at 11 recalls (at recall 0 the precision counts as "
    "1, as in the reference) of a logistic regression a class on pooled res5 features, n = images of VOC2007 test. An "
    "image all of whose objects of a class are difficult is a negative one. λ is one for all classes, the best of 45 "
    f"on 2007 val after fitting 2007 train; then 2007 trainval is fitted. {_STOPPED}"
)
_ERICSSON = (
    "Ericsson et al. (arXiv:2011.13377), section 4, many-shot recognition; linusericsson/ssl-transfer@416913f linear.py"
)


def _manyshot(id_: str, title: str, metric: Literal["top1", "mean_per_class", "map11"], definition: str) -> Protocol:
    settings = ManyshotSettings(resize=224, crop=224, metric=metric)
    return Protocol(id=id_, title=title, citation=_ERICSSON, definition=definition, headline=metric, settings=settings)


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="linear-cached@1",
        title="Logistic top-1",
        citation=(
            "the 45 values of λ of linusericsson/ssl-transfer@416913f linear.py (Ericsson et al., arXiv:2011.13377, "
            "section 4), each solved to convergence, with a stratified held-out part; SGD by linear-moco@1's schedule"
        ),
        definition=_CACHED,
        headline="top1",
        settings=CachedSettings(resize=256, crop=224, sgd_lrs=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    ),
    _manyshot(
        "manyshot@1",
        "Many-shot top-1",
        "top1",
        f"Accuracy in percent {_MANYSHOT} The reference's metric for Cars, CIFAR-10, CIFAR-100, DTD, Food-101, SUN397.",
    ),
    _manyshot(
        "manyshot-mean@1",
        "Many-shot mean per class",
        "mean_per_class",
        f"Mean over the classes of the accuracy in percent {_MANYSHOT} The reference's metric for Aircraft, "
        "Caltech-101, Flowers, Pets.",
    ),
    _manyshot("manyshot-voc07@1", "Many-shot VOC07 mAP", "map11", _VOC),
)
