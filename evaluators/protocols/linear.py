"""The frozen protocols of linear classifiers on augmented images. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.linear import LinearSettings, MultiheadSettings

_DEFINITION = (
    "Accuracy in percent of a linear classifier on the pooled res5 features of the frozen backbone (its batch "
    "normalisation in eval mode throughout), n = validation images. The headline top1 is that of the LAST epoch; "
    "top1_best is the best epoch, chosen on the validation images themselves. Training: random resized crop and "
    "horizontal flip; validation: resize and centre crop."
)
_MULTIHEAD = (
    "Accuracy in percent of the best of many linear classifiers on the pooled res5 features of the frozen backbone "
    "(one a learning rate, weight decay and seed), n = validation images. All are trained in one pass over the "
    "augmented images of the training set WITHOUT its held-out part, a share of each class. The headline top1 is that "
    "of the classifier with the best top-1 on the held-out part after the last epoch: the validation images choose "
    "nothing. top1_reference is the classifier with the reference's lr and weight decay, trained on the same part: it "
    "saw fewer images than in linear-moco@1."
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
    Protocol(
        id="linear-multihead@1",
        title="Linear top-1 (sweep)",
        citation=(
            "linear-moco@1 (facebookresearch/moco@7397dfe main_lincls.py) with a sweep of lr, weight decay and seed; "
            "many classifiers in one pass: DINOv2 (arXiv:2304.07193), appendix B"
        ),
        definition=_MULTIHEAD,
        headline="top1",
        settings=MultiheadSettings(
            epochs=100,
            batch_size=256,
            lr=30.0,
            milestones=(60, 80),
            crop=224,
            resize=256,
            lrs=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
            weight_decays=(0.0, 1e-6, 1e-5, 1e-4),
            head_seeds=(0, 1),
            held_out=0.05,
        ),
    ),
)
