"""What detectron2 0.6 uses for keys that a YAML does not set.

Source: facebookresearch/detectron2@72e9dd6 (the 0.6 release), detectron2/config/defaults.py. Only the keys that a rule
looks at.
"""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, Any] = {
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": False,
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
    "MODEL.FPN.NORM": "",
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.RETINANET.NUM_CLASSES": 80,
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.MAX_ITER": 40000,
    "SOLVER.STEPS": (30000,),
    "SOLVER.WARMUP_ITERS": 1000,
    "TEST.PRECISE_BN.ENABLED": False,
}
