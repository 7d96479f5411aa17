"""The layouts of frameworks: image models, detectors, segmentors, Caffe2."""

from __future__ import annotations

import dataclasses

from converters.families.layout import Convention, Drop, Layout, Naming

_FC = (Drop("classifier", r"fc\.(weight|bias)"),)

IMAGE_MODELS = (
    # The published files of DINO, Barlow Twins and converted BYOL have this layout too.
    Layout(
        family="torchvision",
        source="torchvision 0.29.2, torchvision/models/resnet.py",
        containers=("", "state_dict", "model"),
        q=("",),
        drops=_FC,
    ),
    # Plain stems have torchvision's names. load_state_dict takes the average where there is one.
    Layout(
        family="timm",
        source="timm 1.0.31, timm/models/resnet.py, timm/utils/checkpoint_saver.py, timm/models/_helpers.py",
        containers=("state_dict",),
        q=("",),
        k=("",),
        k_containers=("state_dict_ema",),
        drops=_FC,
        default="k",
    ),
)

_DETECTRON2 = "facebookresearch/detectron2@02b5c4e"
_DETECTOR = (
    Drop("extra norm", r"roi_heads\.res5\.norm\..*"),
    Drop("FPN", r"backbone\.(fpn_(lateral|output)\d|top_block)\..*"),
    Drop("detector head", r"(proposal_generator|anchor_generator|head|sem_seg_head|roi_heads\.(?!res5\.)\w+)\..*"),
    Drop("input normalisation", r"pixel_(mean|std)"),
)

# The authors whose converters keep torchvision's channel order, and write it beside the weights or in their configs:
# detectron2's tools/convert-torchvision-to-d2.py (`FORMAT: "RGB"`), facebookresearch/moco@7397dfe (*_moco.yaml),
# open-mmlab/OpenSelfSup@1db69ec and open-mmlab/mmselfsup@db861f3 (the same file under other authors), and
# HobbitLong/PyContrast@84f94ea (configs/R_50_*_infomin.yaml).
_RGB_AUTHORS = frozenset({"torchvision", "MOCO", "OpenSelfSup", "MMSelfSup", "Yonglong"})


def _detectron2(family: str, convention: Convention) -> tuple[Layout, ...]:
    bare = Layout(
        family=family,
        source=f"{_DETECTRON2}, tools/convert-torchvision-to-d2.py, detectron2/modeling/backbone/resnet.py",
        containers=("model", "state_dict", ""),
        q=("",),
        # The reference converter's junk; of a supervised source it is the classifier.
        drops=(
            Drop("projection head", r"stem\.fc\..*"),
            Drop("classifier", r"(stem\.)?(fc1000|fc|linear)\.(weight|bias)"),
        ),
        naming="detectron2",
        convention=convention,
    )
    detector = dataclasses.replace(
        bare,
        source=f"{_DETECTRON2}, detectron2/modeling/meta_arch, roi_heads/roi_heads.py, backbone/fpn.py",
        containers=("model",),
        drops=_DETECTOR,
    )
    return (
        bare,
        dataclasses.replace(detector, q=("backbone.bottom_up.",)),
        dataclasses.replace(
            detector, q=("",), naming="detectron2 C4", signature=(r"roi_heads\.res5\.0\.conv1\.weight",)
        ),
        dataclasses.replace(detector, q=("backbone.",), signature=(r"backbone\.res5\.0\.conv1\.weight",)),
    )


_RGB = _detectron2("detectron2-rgb", "torchvision")
DETECTRON2 = (
    dataclasses.replace(_RGB[0], says=("__author__", _RGB_AUTHORS)),
    *_RGB,
    *_detectron2("detectron2-bgr", "caffe2"),
)

_CAFFE2_DROPS = (
    Drop("momentum", r".*_momentum"),
    Drop("classifier", r"(fc1000|pred)_[wb]"),
    # detectron2's stem has no such bias (BasicStem, bias=False) and leaves it out too.
    Drop("bias of the stem", r"conv1_b"),
    Drop("training state", r"(lr|iter|model_iter|weight_order)"),
    Drop(
        "detector head",
        r"(fpn_|conv_rpn|rpn_|fc6_|fc7_|cls_score_|bbox_pred_|head_conv|retnet_|_\[|\[mask\]|mask_|conv5_mask|conv_fcn|kps_|keypoint).*",
    ),
)


def _caffe2(naming: Naming) -> Layout:
    return Layout(
        family="caffe2",
        source=f"{_DETECTRON2}, detectron2/checkpoint/c2_model_loading.py, detection_checkpoint.py",
        containers=("", "blobs", "model"),
        q=("",),
        drops=_CAFFE2_DROPS,
        naming=naming,
        convention="caffe2",
    )


CAFFE2 = (
    dataclasses.replace(_caffe2("caffe2"), signature=(r"res_conv1_bn_s",)),
    dataclasses.replace(_caffe2("caffe2 statistics"), signature=(r"res_conv1_bn_gamma",)),
)

_OPENMMLAB_HEADS = (
    Drop("extra norm", r"roi_head\.shared_head\.norm\..*"),
    Drop("FPN", r"neck\..*"),
    Drop("detector head", r"(rpn_head|bbox_head|mask_head|roi_head\.(?!shared_head\.)\w+)\..*"),
    Drop("segmentation head", r"(decode_head|auxiliary_head|panoptic_head|panoptic_fusion_head)\..*"),
    Drop("data preprocessor", r"data_preprocessor\..*"),
    Drop("classifier", r"head\.(fc|layers)\..*"),  # mmpretrain, where this family is declared of one
)
_OPENMMLAB_SIGNATURE = r"(rpn_head|bbox_head|mask_head|roi_head|decode_head|auxiliary_head|panoptic_head)\..*"


def _openmmlab(family: str, convention: Convention) -> tuple[Layout, ...]:
    whole = Layout(
        family=family,
        source="onedl-mmdetection 3.5.1, mmdet/models, configs/_base_/models; onedl-mmsegmentation 1.4.2, mmseg/models",
        q=("backbone.",),
        drops=_OPENMMLAB_HEADS,
        signature=(_OPENMMLAB_SIGNATURE,),
        convention=convention,
    )
    c4 = dataclasses.replace(
        whole, q=("",), naming="mmdet C4", signature=(r"roi_head\.shared_head\.layer4\.0\.conv1\.weight",)
    )
    # What mmcv's model zoo publishes, as open-mmlab://detectron2/resnet50_caffe: torchvision's names.
    bare = dataclasses.replace(
        whole, q=("",), drops=(*_FC, Drop("data preprocessor", r"data_preprocessor\..*")), signature=(), declared=True
    )
    return whole, c4, bare


OPENMMLAB = (*_openmmlab("openmmlab-rgb", "torchvision"), *_openmmlab("openmmlab-bgr", "caffe2"))

FRAMEWORKS: tuple[Layout, ...] = (*IMAGE_MODELS, *DETECTRON2, *CAFFE2, *OPENMMLAB)
