"""Configurations without a trap, in which tests set one."""

from __future__ import annotations

from pathlib import Path

import yaml

from converters.lint import Finding, Report
from converters.metadata import BackboneMetadata, Origin, Preprocess

MOCO = BackboneMetadata(
    arch="resnet50",
    fingerprint="5" * 64,
    origin=Origin(file="moco_v2_200ep_pretrain.pth.tar", sha256="0" * 64, family="moco", prefix="module.encoder_q."),
)
MSRA = BackboneMetadata(
    arch="resnet50",
    fingerprint="6" * 64,
    stride_in_1x1=True,
    preprocess=Preprocess(
        channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), value_range=(0.0, 255.0)
    ),
    origin=Origin(file="R-50.pkl", sha256="1" * 64, family="msra"),
)

VOC_C4 = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: See Instructions
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {NORM: SyncBN, STRIDE_IN_1X1: False}
  ROI_HEADS: {NAME: Res5ROIHeadsExtraNorm, NUM_CLASSES: 20}
INPUT:
  FORMAT: RGB
  MIN_SIZE_TRAIN: (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
DATASETS:
  TRAIN: ('voc_2007_trainval', 'voc_2012_trainval')
  TEST: ('voc_2007_test',)
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02, STEPS: "(18000, 22000)", MAX_ITER: 24000, WARMUP_ITERS: 100}
TEST: {PRECISE_BN: {ENABLED: True}}
VERSION: 2
"""

CITYSCAPES_FCN = """\
norm_cfg = dict(type='SyncBN', requires_grad=True)
crop_size = (769, 769)
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=crop_size)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg, norm_eval=False, frozen_stages=-1, style='pytorch', contract_dilation=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='https://example.org/moco_v2_200ep_pretrain.pth.tar',
            prefix='module.encoder_q.')),
    decode_head=dict(
        type='FCNHead', in_channels=2048, in_index=3, channels=512, num_convs=2, num_classes=19, norm_cfg=norm_cfg,
        align_corners=True),
    auxiliary_head=dict(
        type='FCNHead', in_channels=1024, in_index=2, channels=256, num_convs=1, num_classes=19, norm_cfg=norm_cfg,
        align_corners=True),
    test_cfg=dict(mode='slide', crop_size=(769, 769), stride=(513, 513)))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=2, dataset=dict(
    type='CityscapesDataset', data_root='data/cityscapes/',
    data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(
    type='CityscapesDataset', data_root='data/cityscapes/',
    data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
"""

COCO_FPN = """\
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_mask=True, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1, norm_cfg=norm_cfg,
        norm_eval=False, style='pytorch',
        init_cfg=dict(
            type='Pretrained', checkpoint='https://example.org/moco_v2_200ep_pretrain.pth.tar',
            prefix='module.encoder_q.')),
    neck=dict(
        type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5, norm_cfg=norm_cfg),
    roi_head=dict(
        type='StandardRoIHead', bbox_head=dict(type='Shared2FCBBoxHead', num_classes=80),
        mask_head=dict(type='FCNMaskHead', num_classes=80)))
train_dataloader = dict(batch_size=2, dataset=dict(
    type='CocoDataset', data_root='data/coco/', ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'), pipeline=[dict(type='LoadImageFromFile')]))
val_dataloader = dict(batch_size=1, dataset=dict(
    type='CocoDataset', data_root='data/coco/', ann_file='annotations/instances_val2017.json',
    data_prefix=dict(img='val2017/'), pipeline=[dict(type='LoadImageFromFile')]))
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""

COCO_C4_HEAD = """\
model['backbone'].update(num_stages=3, out_indices=(2,))
del model['neck']
model['roi_head'].update(shared_head=dict(
    type='ResLayerExtraNorm', depth=50, stage=3, stride=2, style='pytorch', norm_cfg=norm_cfg, norm_eval=False,
    init_cfg=model['backbone']['init_cfg']))
"""


def voc_yaml(folder: Path, *settings: str, name: str = "voc.yaml") -> Path:
    """`VOC_C4` with settings such as `MODEL.RESNETS.NORM: BN`; a setting without a value removes the key."""
    content = yaml.safe_load(VOC_C4)
    for setting in settings:
        key, _, value = setting.partition(": ")
        *parents, last = key.removesuffix(":").split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        if value:
            node[last] = yaml.safe_load(value)
        else:
            node.pop(last, None)
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def python_config(folder: Path, text: str, *lines: str, name: str = "config_4xb2.py") -> Path:
    """A configuration with lines behind it."""
    path = folder / name
    path.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def but_remote(report: Report) -> list[Finding]:
    """The findings but for that of the remote file, which the configurations of this module name as weights."""
    return [finding for finding in report.findings if finding.rule != "weights-remote"]
