"""The frozen protocols of the task `svm`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.features.layers import Layer
from evaluators.protocol import Expected, Protocol
from evaluators.settings.svm import SvmSettings

_SOURCE = "open-mmlab/OpenSelfSup@1db69ec docs/MODEL_ZOO.md"
_K = (1, 2, 4, 8, 16, 32, 64, 96)
_PUBLISHED = {
    "MoCo v1 200ep (OpenSelfSup)": (79.18, (30.03, 37.73, 47.64, 58.78, 66.0, 70.6, 74.6, 76.07)),
    "MoCo v2 200ep (OpenSelfSup)": (84.26, (43.0, 52.48, 63.43, 71.74, 76.35, 78.9, 81.31, 82.45)),
    "supervised": (87.17, ()),
}

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="svm-voc07@1",
        title="VOC07 SVM mAP",
        citation=(
            "Goyal et al., Scaling and Benchmarking Self-Supervised Visual Representation Learning, ICCV 2019 "
            "(arXiv:1905.01235), as open-mmlab/OpenSelfSup@1db69ec runs it: benchmarks/dist_test_svm_pretrain.sh, "
            "benchmarks/svm_tools, benchmarks/extract_info/voc07.py, openselfsup/models/utils/multi_pooling.py"
        ),
        definition=(
            "Mean over classes of the average precision on the test images, in percent, of a linear SVM a class; n = "
            "test images. AP is the area under the precision envelope at every recall, not the 11-point metric; among "
            "equal scores the lower image comes first. C is chosen a class by 3-fold cross-validation among 19 values "
            "(0.5^19 ... 0.5^4, 1, 10, 100: the source's parser adds the powers to the three on its command line). The "
            "headline mAP is that of the BEST layer, which the source chooses on the test images; mAP_STAGE is each "
            "layer's. Images whose objects of a class are all difficult count as its negatives in training, as in the "
            "source, and are left out in testing. mAP_kK, on the best layer: mean over 5 draws of K positive and 19 K "
            "negative images a class, at the C that is best on the TEST images, as in the source. The source's draws "
            "are unseeded and not published: these are made from the trial seed."
        ),
        headline="mAP",
        settings=SvmSettings(
            resize=256,
            crop=224,
            geometry="squash",
            interpolation="bilinear",
            layers=(
                Layer(stage="stem", pool=(10, 10, 4)),
                Layer(stage="res2", pool=(16, 8, 0)),
                Layer(stage="res3", pool=(13, 5, 0)),
                Layer(stage="res4", pool=(8, 3, 0)),
                Layer(stage="res5", pool=(6, 1, 0)),
            ),
            costs=(1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20))),
            low_shot_k=_K,
        ),
        expected=tuple(
            Expected(method=method, arch="resnet50", metric=metric, value=value, source=_SOURCE)
            for method, (full, low) in _PUBLISHED.items()
            for metric, value in (("mAP", full), *((f"mAP_k{k}", value) for k, value in zip(_K, low, strict=False)))
        ),
    ),
)
