"""The frozen protocols of the task `linear`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.linear import LinearSettings

_DEFINITION = (
    "Accuracy in percent of a linear classifier on the pooled res5 features of the frozen backbone (its batch "
    "normalisation in eval mode throughout), n = validation images. The headline top1 is that of the LAST epoch; "
    "top1_best is the best epoch, chosen on the validation images themselves. Training: random resized crop and "
    "horizontal flip; validation: resize and centre crop."
)
_SOURCE = "facebookresearch/moco@7397dfe README.md (mean of 5 trials)"

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="linear-moco@1",
        title="Linear top-1",
        citation="MoCo (arXiv:1911.05722), section 4.1; facebookresearch/moco@7397dfe main_lincls.py",
        definition=_DEFINITION,
        headline="top1",
        settings=LinearSettings(epochs=100, batch_size=256, lr=30.0, milestones=(60, 80), crop=224, resize=256),
        expected=(
            Expected(method="MoCo v1 200ep", arch="resnet50", metric="top1", value=60.8, spread=0.2, source=_SOURCE),
            Expected(method="MoCo v2 200ep", arch="resnet50", metric="top1", value=67.5, spread=0.1, source=_SOURCE),
            Expected(
                method="MoCo v2 800ep",
                arch="resnet50",
                metric="top1",
                value=71.1,
                source="arXiv:2003.04297 Table 1; facebookresearch/moco@7397dfe README.md",
            ),
        ),
    ),
    Protocol(
        id="quickstart-linear@1",
        title="Linear top-1",
        citation="linear-moco@1 at the size of the generated sample data (64 px images, networks trained at 32 px)",
        definition=_DEFINITION,
        headline="top1",
        # lr and batch are near the optimum of a random initialisation, whose pooled features have a norm of about 13,
        # and do as well as any for MoCo v2, whose features have about 54: neither is held back by the other's lr.
        # Images this small are decoded faster than a worker process starts.
        settings=LinearSettings(
            epochs=5, batch_size=32, lr=0.05, milestones=(3, 4), crop=40, crop_scale=(0.2, 1.0), resize=46, workers=0
        ),
    ),
)
