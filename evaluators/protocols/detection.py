"""The frozen protocols of the task `detection`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.detection import DetectionSettings

_V2 = "arXiv:2003.04297, table 1; facebookresearch/moco@7397dfe, detection/README.md"
_SPREAD = {"AP50": 0.2, "AP": 0.2, "AP75": 0.4}
_VOC = {
    "MoCo v1 200ep": (81.5, 55.9, 62.6),
    "MoCo v2 200ep": (82.4, 57.0, 63.6),
    "MoCo v2 800ep": (82.5, 57.4, 64.0),
    "supervised": (81.3, 53.5, 58.8),
}

VOC0712_C4_24K = Protocol(
    id="voc0712-c4-24k@1",
    title="VOC07+12 detection, C4, 24k",
    citation=(
        "He et al., Momentum Contrast, CVPR 2020 (arXiv:1911.05722), section 4.2.1 and appendix A.2; "
        "facebookresearch/moco@7397dfe, detection/configs/pascal_voc_R_50_C4_24k_moco.yaml"
    ),
    definition=(
        "Faster R-CNN R50-C4 with an extra BN after res5, tuned end to end. AP50, AP75, and AP over IoU .50:.05:.95, "
        "each by VOC 2007's 11-point metric, mean over classes; n counts test images. The source means 5 trials."
    ),
    headline="AP50",
    settings=DetectionSettings(
        layout="voc",
        head="C4",
        train_splits=("2007_trainval", "2012_trainval"),
        test_split="2007_test",
        iterations=24_000,
        steps=(18_000, 22_000),
        warmup=100,
        batch_size=16,
        lr=0.02,
        min_size_train=tuple(range(480, 801, 32)),
        min_size_test=800,
        norm="naiveSyncBN",
        precise_bn=True,
        precise_bn_iterations=200,
        anchor_sizes=((32, 64, 128, 256, 512),),
    ),
    expected=tuple(
        Expected(method=method, arch="resnet50", metric=metric, value=value, spread=_SPREAD[metric], source=_V2)
        for method, values in _VOC.items()
        for metric, value in zip(_SPREAD, values, strict=True)
    ),
)

QUICKSTART_DETECTION = Protocol(
    id="quickstart-detection@1",
    title="Detection AP50",
    citation="This project: a small Faster R-CNN with FPN for the generated sample scenes; comparable to no paper.",
    definition=(
        "AP50, AP75, and AP over IoU .50:.05:.95, each by VOC 2007's 11-point metric, mean over the classes that the "
        "test split has; n counts test images."
    ),
    headline="AP50",
    settings=DetectionSettings(
        layout="voc",
        head="FPN",
        train_splits=("2007_trainval",),
        test_split="2007_test",
        iterations=240,
        steps=(200, 228),
        warmup=20,
        batch_size=8,
        lr=0.06,
        min_size_train=(96,),
        max_size_train=192,
        min_size_test=96,
        max_size_test=192,
        precise_bn=False,
        channels=64,
        box_head_width=128,
        anchor_sizes=((12,), (20,), (32,), (48,), (64,)),
        rois_per_image=64,
        foreground_share=0.5,
        rpn_topk_train=(300, 200),
        rpn_topk_test=(200, 50),
        workers=0,
    ),
)

PROTOCOLS: tuple[Protocol, ...] = (VOC0712_C4_24K, QUICKSTART_DETECTION)
