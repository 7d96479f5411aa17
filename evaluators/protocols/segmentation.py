"""The frozen protocols of the task `segmentation`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.segmentation import SegmentationSettings

_MIOU = (
    "mIoU over one confusion matrix of all validation pixels, those labelled 255 left out, mean over classes; "
    "n counts validation images."
)

CITYSCAPES_FCN16_90K = Protocol(
    id="cityscapes-fcn16-90k@1",
    title="Cityscapes mIoU, FCN-16, 90k",
    citation=(
        "He et al., Momentum Contrast, CVPR 2020 (arXiv:1911.05722), appendix A.5. Its code was never released: what "
        "the text leaves open follows mmsegmentation's defaults."
    ),
    definition=f"{_MIOU} Single scale, original size. The source means 5 trials.",
    headline="mIoU",
    settings=SegmentationSettings(
        layout="cityscapes",
        iterations=90_000,
        schedule="step",
        steps=(63_000, 81_000),
        lr=0.01,
        weight_decay=1e-4,
        batch_size=16,
        scale=(2048, 1024),
        crop=769,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        head_channels=256,
        head_dilation=6,
    ),
    expected=(
        Expected(
            method="MoCo v1 200ep",
            arch="resnet50",
            metric="mIoU",
            value=75.3,
            source="arXiv:1911.05722, table 6",
        ),
    ),
)

CITYSCAPES_FCN_D8_40K = Protocol(
    id="cityscapes-fcn-d8-40k@1",
    title="Cityscapes mIoU, FCN-D8, 40k",
    citation=(
        "OpenMMLab's lineage: Wang et al., DenseCL, CVPR 2021 (arXiv:2011.09157), and MMSelfSup 0.x, "
        "fcn_r50-d8 at 769x769 for 40k iterations, on a plain ResNet."
    ),
    definition=f"{_MIOU} Single scale, windows of 769 pixels every 513.",
    headline="mIoU",
    settings=SegmentationSettings(
        layout="cityscapes",
        iterations=40_000,
        schedule="poly",
        lr=0.01,
        power=0.9,
        min_lr=1e-4,
        weight_decay=5e-4,
        batch_size=8,
        scale=(2048, 1024),
        crop=769,
        crop_max_share=0.75,
        photometric_distortion=True,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        head_channels=512,
        concat_input=True,
        dropout=0.1,
        auxiliary_weight=0.4,
        auxiliary_channels=256,
        align_corners=True,
        test_mode="slide",
        slide_stride=513,
    ),
)

QUICKSTART_SEGMENTATION = Protocol(
    id="quickstart-segmentation@1",
    title="Segmentation mIoU",
    citation="This project: a small FCN at stride 16 for the generated sample scenes; comparable to no paper.",
    definition=_MIOU,
    headline="mIoU",
    settings=SegmentationSettings(
        layout="cityscapes",
        iterations=200,
        schedule="poly",
        lr=0.04,
        min_lr=1e-4,
        weight_decay=5e-4,
        batch_size=8,
        scale=(128, 128),
        scale_range=(0.75, 1.5),
        crop=128,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        head_channels=64,
        head_convs=1,
        workers=0,
    ),
)

PROTOCOLS: tuple[Protocol, ...] = (CITYSCAPES_FCN16_90K, CITYSCAPES_FCN_D8_40K, QUICKSTART_SEGMENTATION)
