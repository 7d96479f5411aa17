"""The rule book: what each rule is about, why, and who says so. `docs/linting.md` shows it as a table."""

from __future__ import annotations

from dataclasses import dataclass

_MOCO = "facebookresearch/moco@7397dfe"
_VOC = f"{_MOCO}, detection/configs/pascal_voc_R_50_C4_24k_moco.yaml"
_C4 = f"{_MOCO}, detection/configs/Base-RCNN-C4-BN.yaml"


@dataclass(frozen=True)
class Rule:
    """One trap."""

    title: str
    why: str
    source: str


RULES: dict[str, Rule] = {
    "channel-order": Rule(
        "Colour channels in the order of the pretraining",
        "the first convolution would see red where it learned blue",
        _VOC,
    ),
    "mean": Rule(
        "Mean of the pretraining, in the channels' order, on the scale 0-255",
        "the images would enter the network shifted against its pretraining",
        _VOC,
    ),
    "std": Rule(
        "Standard deviation of the pretraining, on the scale 0-255",
        "the images would enter the network on another scale than in its pretraining",
        f"{_VOC}; the weights that go with std 1 have it folded into their first convolution (MSRA's R-50.pkl)",
    ),
    "normalised-twice": Rule(
        "One normalisation",
        "the images would be normalised once in the pipeline and once more in data_preprocessor",
        "mmengine's ImgDataPreprocessor; a pipeline's Normalize step belongs to the 0.x line",
    ),
    "preprocessors-differ": Rule(
        "One data_preprocessor",
        "the model's own data_preprocessor wins over the top-level one, which changes nothing",
        "mmengine 0.10, Runner.__init__: model.setdefault('data_preprocessor', ...)",
    ),
    "train-test-input": Rule(
        "Training and test read images alike",
        "the network would be tested on another input than it was tuned for",
        "He et al., arXiv:1911.05722, section 4.2: one pre-processing",
    ),
    "stride-position": Rule(
        "The stride in the convolution where the pretraining had it",
        "with the stride in the other convolution of a bottleneck, the same weights compute other features",
        _VOC,
    ),
    "frozen-stages": Rule(
        "No frozen stage, and no learning rate of 0",
        "the protocols tune every layer; frozen stages also keep their batch norm frozen, whatever the norm is",
        f"{_C4}; detectron2#2022",
    ),
    "frozen-bn": Rule(
        "Batch norm that trains",
        "batch norm with the frozen statistics of the pretraining does not suit features whose scale was never tuned "
        "for this task",
        "He et al., arXiv:1911.05722, section 4.2: BN is fine-tuned, not frozen",
    ),
    "norm-kind": Rule(
        "SyncBN across devices",
        "batch norm over the few images of one device has poor statistics; the protocols synchronise it",
        "He et al., arXiv:1911.05722, section 4.2: BN is synchronised across GPUs",
    ),
    "sync-bn-one-device": Rule(
        "SyncBN where there is something to synchronise",
        "on one device SyncBN is plain BN at best, and raises on a CPU as soon as there is a process group",
        "torch.nn.SyncBatchNorm: expects its input on a GPU",
    ),
    "extra-norm": Rule(
        "A norm after res5 of a C4 head",
        "features of an unsupervised network may lie on another scale than those that the detection hyper-parameters "
        "were chosen for",
        f"He et al., arXiv:1911.05722, section 4.2; {_MOCO}, detection/train_net.py: Res5ROIHeadsExtraNorm",
    ),
    "fpn-norm": Rule(
        "SyncBN in the FPN too",
        "the protocol has SyncBN in the backbone and in the FPN",
        "moco#34 and moco#39, the authors' answers; MMSelfSup, mask-rcnn_r50_fpn_ms-1x_coco.py: neck=dict(norm_cfg)",
    ),
    "precise-bn": Rule(
        "PreciseBN on",
        "without it the test runs on moving averages of batch norm's statistics, which lag behind the weights",
        _C4,
    ),
    "deep-stem": Rule(
        "The plain stem",
        "a deep stem has three 3x3 convolutions: the 7x7 one of the weights loads nowhere, without an error",
        "DenseCL#3; mmseg's stock fcn_r50-d8 is a ResNetV1c",
    ),
    "arch": Rule(
        "The backbone's own architecture",
        "tensors of another shape or name load nowhere; detectron2 and mmengine only warn",
        "detectron2 0.6, c2_model_loading.align_and_update_state_dicts; mmengine 0.10, load_state_dict(strict=False)",
    ),
    "network": Rule(
        "A plain ResNet, with nothing more or less in it",
        "the same weights would compute other features; no tensor is amiss, so nothing warns",
        "torchvision's ResNet, whose layers the certificate compares; mmseg 1.x, mmdet 3.x, mmpretrain 1.x and "
        "detectron2 0.6, ResNet.__init__ and build_resnet_backbone",
    ),
    "weights-absent": Rule(
        "Weights at all",
        "without a file of weights, training starts from random ones",
        "mmdet#5284; detectron2 0.6, DetectionCheckpointer: an empty path initialises from scratch",
    ),
    "weights-other": Rule(
        "The weights of this backbone",
        "the number would be that of other weights",
        "the receipt of this toolkit compares the same fingerprint in the live model",
    ),
    "weights-remote": Rule(
        "Weights in a file that lies here",
        "a name is no proof: another file of this name holds other weights, as detectron2's own R-50.pkl does",
        "detectron2 0.6, model_zoo: detectron2://ImageNetPretrained/MSRA/R-50.pkl and torchvision/R-50.pkl differ",
    ),
    "weights-names": Rule(
        "Weights under the names that the framework looks for",
        "names that match nothing are skipped with a warning, and training starts from random weights",
        "detectron2 0.6, DetectionCheckpointer: heuristic matching for .pkl alone; "
        "mmengine 0.10, load_checkpoint(strict=False)",
    ),
    "init-prefix": Rule(
        "The prefix of a raw checkpoint",
        "without the prefix of its encoder no name of a raw checkpoint matches: training starts from random weights",
        "mmengine 0.10, _load_checkpoint_with_prefix; mmdet#5284, mmdet#4304",
    ),
    "pretrained": Rule(
        "init_cfg alone",
        "`pretrained` loads other weights, and beside an init_cfg it is an assertion error",
        "mmseg 1.x, ResNet.__init__ and EncoderDecoder.__init__",
    ),
    "load-from": Rule(
        "No load_from",
        "load_from is loaded over the backbone's weights when training starts, and names that do not match are skipped",
        "mmengine 0.10, Runner.load_or_resume",
    ),
    "shared-head-weights": Rule(
        "Weights for res5 in a C4 head too",
        "in a C4 model of mmdet res5 lies in roi_head.shared_head, which needs an init_cfg of its own",
        "mmdet 3.x, models/roi_heads/shared_heads/res_layer.py",
    ),
    "class-count": Rule(
        "As many classes as the data set has",
        "a head for another number of classes never learns some, or fails on a label",
        "VOC 20 (21 with background in segmentation), COCO 80, Cityscapes 19 (8 with instances)",
    ),
    "learning-rate": Rule(
        "The learning rate of the protocol, scaled with the batch",
        "the learning rate scales linearly with the batch: 0.02 for 16 images in detection",
        f"{_C4}; Goyal et al., arXiv:1706.02677; moco#11",
    ),
    "schedule": Rule(
        "The length of a published schedule",
        "a schedule of another length gives a number of its own, beside no published one; with fewer images a batch, "
        "iterations and steps grow by the same factor",
        f"{_MOCO}, detection/configs; moco#11",
    ),
    "schedule-end": Rule(
        "A schedule that ends where the training ends",
        "the steps after the end of training never happen: the learning rate does not fall as meant",
        "MMSelfSup 1.x, mask-rcnn_r50-c4_ms-2x_coco.py defines max_epochs=12 below a schedule of 24",
    ),
    "warmup": Rule(
        "The protocol's warm-up",
        "the warm-up of VOC is 100 iterations",
        _VOC,
    ),
    "test-in-train": Rule(
        "Test images that were not trained on",
        "the number would be that of images which the network has seen with their labels",
        "He et al., arXiv:1911.05722, appendix A",
    ),
    "contract-dilation": Rule(
        "contract_dilation with dilated stages",
        "OpenMMLab's FCN-D8 contracts the dilation of each stage's first block",
        "mmseg 1.x, configs/_base_/models/fcn_r50-d8.py; MMSelfSup 0.x",
    ),
    "align-corners": Rule(
        "align_corners with crops of odd size",
        "OpenMMLab's recipe for crops of 769 aligns corners",
        "mmseg 1.x, configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py",
    ),
}
