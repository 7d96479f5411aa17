"""The frozen protocols of the task `finetune`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.finetune import FinetuneSettings

_DEFINITION = (
    "Accuracy in percent after tuning the whole network end to end, n = validation images. The headline top1 is that "
    "of the LAST epoch; validation: resize and centre crop, batch normalisation in eval mode. mean_per_class weighs "
    "every class alike. "
)
_OPENSELFSUP = "open-mmlab/OpenSelfSup@1db69ec"
_SEMI = (
    _DEFINITION + "Training images: those of the list {name} of google-research/simclr imagenet_subsets, checked by "
    "its sha256; put it into the data set's root, or name it by --set train_list=PATH, which alone makes no other "
    "data but marks the result. Batch normalisation over the whole batch of 256, as SyncBN over the source's 4 GPUs. "
    "The source tried three learning rates and three factors for the classifier and published each method's best on "
    "the VALIDATION images: r50_lr0_01_head100, the setting here, for MoCo; random init had another. Its last batch "
    "repeats images to fill 4 GPUs; here none is repeated."
)
_PAPER = "MoCo (arXiv:1911.05722), appendix"
_OPEN = (
    "The paper gives epochs and learning rates, and says typical ResNet training in PyTorch; taken from "
    "pytorch/examples imagenet: batch 256, SGD with momentum 0.9 and weight decay 1e-4, random resized crop and flip, "
    "the classifier's start as torch.nn.Linear's, batch normalisation over the 32 images that one of 8 GPUs saw. "
)


def _semi(percent: int, weight_decay: float, sha256: str, published: dict[str, tuple[float, float]]) -> Protocol:
    name = f"{percent}percent.txt"
    return Protocol(
        id=f"semi-{percent}pct@1",
        title=f"Semi-supervised {percent} % top-1",
        citation=(
            f"{_OPENSELFSUP} configs/benchmarks/semi_classification/imagenet_{percent}percent/r50_lr0_01_head100.py; "
            "the split of SimCLR (arXiv:2002.05709)"
        ),
        definition=_SEMI.format(name=name),
        headline="top1",
        settings=FinetuneSettings(
            resize=256,
            crop=224,
            interpolation="bilinear",
            epochs=20,
            batch_size=256,
            lr=(0.01,),
            head_lr_factor=100.0,
            weight_decay=(weight_decay,),
            milestones=(12, 16),
            gamma=0.2,
            train_list=name,
            train_list_sha256=sha256,
        ),
        expected=tuple(
            Expected(
                method=method, arch="resnet50", metric=metric, value=value, source=f"{_OPENSELFSUP} docs/MODEL_ZOO.md"
            )
            for method, values in published.items()
            for metric, value in zip(("top1", "top5"), values, strict=True)
        ),
    )


def _end_to_end(
    dataset: str, title: str, section: str, *, lr: float, milestones: str, published: dict[str, float]
) -> Protocol:
    return Protocol(
        id=f"finetune-{dataset}@1",
        title=title,
        citation=f"{_PAPER}, {section}; pytorch/examples imagenet/main.py",
        definition=(
            f"{_DEFINITION}{_OPEN}{milestones} A backbone of random weights is trained with lr 0.1, as in the paper."
        ),
        headline="top1",
        settings=FinetuneSettings(
            resize=256,
            crop=224,
            interpolation="bilinear",
            epochs=100,
            batch_size=256,
            lr=(lr,),
            lr_random_init=0.1,
            weight_decay=(1e-4,),
            milestones=(70, 90),
            head_init="uniform",
            norm_images=32,
        ),
        expected=tuple(
            Expected(method=method, arch="resnet50", metric="top1", value=value, source=f"arXiv:1911.05722 {section}")
            for method, value in published.items()
        ),
    )


PROTOCOLS: tuple[Protocol, ...] = (
    _semi(
        1,
        5e-4,
        "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
        {"MoCo v1 200ep (OpenSelfSup)": (33.15, 61.30), "MoCo v2 200ep (OpenSelfSup)": (39.07, 68.31)},
    ),
    _semi(
        10,
        1e-4,
        "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
        {"MoCo v1 200ep (OpenSelfSup)": (60.08, 84.02), "MoCo v2 200ep (OpenSelfSup)": (61.80, 85.11)},
    ),
    _end_to_end(
        "inat18",
        "iNat18 fine-tuned top-1",
        "Appendix (iNaturalist fine-tuning)",
        lr=0.025,
        milestones="The learning rate falls tenfold at 70 % and 90 % of the epochs, as in the paper.",
        published={"random init": 61.8, "supervised": 66.1, "MoCo v1 200ep": 65.6, "MoCo v1 IG-1B": 65.8},
    ),
    _end_to_end(
        "imagenet",
        "ImageNet fine-tuned top-1",
        "Appendix (ImageNet fine-tuning)",
        lr=0.03,
        milestones="The paper gives no milestones here: 70 % and 90 % of the epochs, as for iNaturalist.",
        published={"random init": 76.5, "MoCo v1 200ep": 77.0, "MoCo v1 IG-1B": 77.3},
    ),
    Protocol(
        id="finetune-finegrained@1",
        title="Fine-grained fine-tuned top-1",
        citation=(
            "Ericsson et al., How Well Do Self-Supervised Models Transfer?, CVPR 2021 (arXiv:2011.13377); "
            "linusericsson/ssl-transfer@416913f finetune.py"
        ),
        definition=(
            _DEFINITION + "The source reports top1 on cars, CIFAR, DTD, food and SUN397, and mean_per_class on "
            "aircraft, Caltech-101, flowers and pets. 5000 steps of batch 64, Nesterov, half a cosine; learning rate "
            "and weight decay are chosen among 4 x 5 pairs on the data set's own validation images, where its layout "
            "tells them (DTD, aircraft, flowers), else on a fifth of the training images held out, stratified by class "
            "and drawn from the trial seed (the source: unstratified, one fixed draw); and the chosen pair is trained "
            "anew on all of them: 21 trainings. They are compared by the metric that the source reports, where the "
            "layout tells the data set, and by top1 in image folders and file lists; a pair that diverges counts as 0. "
            "In a folder, train/ is the source's training and validation images, val/ its test images."
        ),
        headline="top1",
        settings=FinetuneSettings(
            resize=224,
            crop=224,
            interpolation="bicubic",
            steps=5000,
            batch_size=64,
            lr=(0.1, 0.01, 0.001, 0.0001),
            weight_decay=(0.0, 1e-6, 1e-5, 1e-4, 1e-3),
            decay_over_lr=True,
            schedule="cosine",
            nesterov=True,
            head_init="uniform",
        ),
    ),
)
