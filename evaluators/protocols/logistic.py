"""The frozen protocols of linear classifiers on cached features. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Protocol
from evaluators.settings.logistic import CachedSettings

_CACHED = (
    "Accuracy in percent of multinomial logistic regression on the pooled res5 features of the frozen backbone (not "
    "normalised, without augmentation), n = validation images: the sum of the cross-entropies over the images "
    "plus λ/2 times the squared weights, the bias free, minimised by L-BFGS. λ is chosen on a held-out share of each "
    "class of the training set, then all training images are fitted. top1_sgd is a head trained by SGD on the same "
    "features, its lr chosen on the same held-out images."
)

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="linear-cached@1",
        title="Logistic top-1",
        citation=(
            "the 45 values and the solver of linusericsson/ssl-transfer@416913f linear.py (Ericsson et al., "
            "arXiv:2011.13377, section 4), with a stratified held-out part; SGD by linear-moco@1's schedule"
        ),
        definition=_CACHED,
        headline="top1",
        settings=CachedSettings(resize=256, crop=224, sgd_lrs=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    ),
)
