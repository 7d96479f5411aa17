"""The frozen protocols of the task `fewshot`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Protocol
from evaluators.settings.fewshot import FewshotSettings

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="fewshot@1",
        title="5-way 5-shot",
        citation=(
            "Ericsson et al., How Well Do Self-Supervised Models Transfer?, CVPR 2021 (arXiv:2011.13377); "
            "linusericsson/ssl-transfer@416913f few_shot.py; prototypes: Snell et al. (arXiv:1703.05175)"
        ),
        definition=(
            "Mean over 600 episodes of the accuracy in percent on 15 queries of each of 5 classes; n = all queries. A "
            "query gets the class whose prototype, the mean feature of 5 (top1_20shot: 20) support images, is nearest "
            "in Euclidean distance; pooled res5 features are NOT normalised; among equals the class drawn first. "
            "ci95_KSHOT is 1.96 standard errors over episodes: half the 95 % interval. Images of train/ and val/ are "
            "one pool, as the source pools all splits; classes with fewer images than an episode takes are left out. "
            "Episodes are drawn from the trial seed and are the same for every backbone."
        ),
        headline="top1_5shot",
        # 257 is the whole part of 1.15 times 224; the source squashes to a square before its centre crop.
        settings=FewshotSettings(resize=257, crop=224, geometry="squash-crop", interpolation="bilinear", shots=(5, 20)),
    ),
)
