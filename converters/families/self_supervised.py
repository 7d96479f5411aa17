"""The layouts of self-supervised methods' own repositories."""

from __future__ import annotations

from converters.families.layout import Drop, Layout

_QUEUE = Drop("queue", r"queue(_ptr|_y|_index)?")

MOCO = (
    Layout(
        family="moco",
        source="facebookresearch/moco@7397dfe, moco/builder.py, main_moco.py, main_lincls.py",
        methods=(
            (r"encoder_q\.fc\.2\.weight", "MoCo v2"),
            (r"encoder_q\.fc\.weight", "MoCo v1"),
        ),
        q=("encoder_q.",),
        k=("encoder_k.",),
        drops=(
            Drop("projection head", r"encoder_[qk]\.fc\..*"),
            _QUEUE,
            Drop("memory bank", r"bank"),  # ours, for the mechanism that He et al. 2020 compare MoCo with
        ),
        head="fc.",
    ),
    # main_lincls.py takes base_encoder.
    Layout(
        family="mocov3",
        source="facebookresearch/moco-v3@c349e6e, moco/builder.py, main_lincls.py",
        methods=((r".*", "MoCo v3"),),
        q=("base_encoder.",),
        k=("momentum_encoder.",),
        drops=(
            Drop("projection head", r"(base|momentum)_encoder\.fc\..*"),
            Drop("predictor", r"predictor\..*"),
        ),
    ),
)

SIMSIAM = Layout(
    family="simsiam",
    source="facebookresearch/simsiam@a7bc177, simsiam/builder.py",
    methods=((r"predictor\..*", "SimSiam"),),
    q=("encoder.",),
    drops=(Drop("projection head", r"encoder\.fc\..*"), Drop("predictor", r"predictor\..*")),
)

# The first entry of `Sequential(backbone, neck)` is registered as `backbone` too, so that both are saved.
_OPENMMLAB_METHODS = (
    (r"queue2", "DenseCL"),
    (r"(online|target)_net\..*", "BYOL"),
    (r"(base|momentum)_encoder\..*", "MoCo v3"),
    (r"encoder\.0\..*", "SimSiam"),
    (r"queue", "MoCo"),
)
_OPENMMLAB = (
    Drop(
        "projection head",
        r"((encoder(_q|_k)?|online_net|target_net|base_encoder|momentum_encoder)\.(module\.)?1\.|neck2?\.|inter_neck_[qk]\.).*",
    ),
    Drop("predictor", r"head\.predictor\..*"),
    Drop("prototypes", r"head\.(loss|loss_module)\.prototypes.*"),
    Drop("loss", r"head\.bn\..*"),  # of Barlow Twins' cross-correlation head
    Drop("classifier", r"head\.(?!predictor\.|(loss|loss_module)\.prototypes).*"),
    Drop("queue", r"queue2?(_ptr)?"),
    Drop("memory bank", r"memory_bank\..*"),
    Drop("training state", r"((encoder_k|target_net|momentum_encoder)\.steps|loss_weight)"),
    Drop("data preprocessor", r"data_preprocessor\..*"),
    Drop("target generator", r"target_generator\..*"),
)
OPENMMLAB = (
    Layout(
        family="openselfsup",
        source="open-mmlab/OpenSelfSup@1db69ec, WXinlong/DenseCL@b64bbb6, openselfsup/models; "
        "open-mmlab/mmselfsup@684875d (0.11), mmselfsup/models/algorithms",
        q=("backbone.",),
        k=("encoder_k.0.", "target_net.0.", "momentum_encoder.0."),
        aliases=("encoder_q.0.", "online_net.0.", "encoder.0.", "base_encoder.0."),
        drops=_OPENMMLAB,
        methods=_OPENMMLAB_METHODS,
        signature=(r"(encoder_q|online_net|encoder|base_encoder)\.0\..*",),
    ),
    Layout(
        family="mmpretrain",
        source="open-mmlab/mmpretrain@ee7f2e8, mmpretrain/models/selfsup; "
        "open-mmlab/mmselfsup@db861f3 (1.x), mmselfsup/models/algorithms",
        q=("backbone.",),
        k=("encoder_k.module.0.", "target_net.module.0.", "momentum_encoder.module.0."),
        drops=_OPENMMLAB,
        methods=_OPENMMLAB_METHODS,
    ),
    # tools/extract_backbone_weights.py of each writes the bare names and its name.
    Layout(
        family="openselfsup",
        source="open-mmlab/OpenSelfSup@1db69ec, WXinlong/DenseCL@b64bbb6, open-mmlab/mmselfsup@db861f3, "
        "tools/**/extract_backbone_weights.py",
        containers=("state_dict",),
        q=("",),
        says=("author", frozenset({"OpenSelfSup", "DenseCL", "MMSelfSup"})),
    ),
)

# learning/contrast_trainer.py saves the momentum encoder under a key of its own, without DistributedDataParallel.
# learning/linear_trainer.py evaluates `model`.
PYCONTRAST = Layout(
    family="pycontrast",
    source="HobbitLong/PyContrast@84f94ea, pycontrast/networks/build_backbone.py, learning/contrast_trainer.py",
    containers=("model",),
    q=("encoder.",),
    k=("encoder.",),
    k_containers=("model_ema",),
    drops=(Drop("jigsaw head", r"head_jig\..*"), Drop("projection head", r"head\..*")),
    beside=(("contrast", "memory bank"),),
)

_SOLO = (
    Drop("projection head", r"(momentum_)?(projector|head)\..*"),
    Drop("predictor", r"predictor2?\..*"),
    Drop("prototypes", r"prototypes\..*"),
    Drop("classifier", r"(momentum_)?classifier\..*"),
    Drop("queue", r"(queue(_ptr|_y|_index)?|local_memory_(index|embeddings))"),
    Drop("loss", r"(dino_loss_func|whitening|transformer_encoder|pos_enc)\..*"),
)
SOLO_LEARN = tuple(
    Layout(
        family="solo-learn",
        source=source,
        containers=("state_dict",),
        q=(f"{word}.",),
        k=(f"momentum_{word}.",),
        drops=_SOLO,
        signature=(r"((momentum_)?projector|classifier)\..*",),
    )
    for word, source in (
        ("backbone", "vturrisi/solo-learn@9187ea3, solo/methods, main_linear.py"),
        ("encoder", "vturrisi/solo-learn before 0ac7b8f (2021-12), solo/methods/base.py; main_linear.py renames it"),
    )
)

_LIGHTLY = (
    Drop(
        "projection head",
        r"((student|teacher|query|key|local|global)_)*(projection_head|head)(_global|_local)?(_momentum)?\..*",
    ),
    Drop("predictor", r"(student_)?prediction_head\..*"),
    Drop("prototypes", r"(prototypes|smog)\..*"),
    Drop("classifier", r"(online_classifier|classification_head)\..*"),
    Drop("queue", r"queues\..*"),
    Drop("memory bank", r"(criterion\.|memory_bank\.)+(bank|bank_ptr)"),
    Drop("loss", r"criterion\.(center|.*\.center)"),
)
# In benchmarks/imagenet/resnet50 `forward`, which kNN and linear evaluation call, is `backbone`. Since 2024-02
# (4dede596) that is the trained encoder, but for DINO; before it was the averaged one wherever a `query_backbone` or
# `student_backbone` is beside it. The examples do without an evaluation; in them DINO has both words.
_LIGHTLY_SOURCE = "lightly-ai/lightly@e8d317f, benchmarks/imagenet/resnet50, examples/pytorch, lightly/models/modules"
_OWN = ("key_backbone.", "teacher_backbone.", "backbone_momentum.")
LIGHTLY = (
    Layout(
        family="lightly",
        source=_LIGHTLY_SOURCE,
        q=("backbone.",),
        k=_OWN,
        drops=_LIGHTLY,
    ),
    Layout(
        family="lightly",
        source="lightly-ai/lightly@610f73e, benchmarks/imagenet/resnet50/mocov2.py; @e8d317f, dino.py",
        q=("query_backbone.", "student_backbone."),
        k=("backbone.", "teacher_backbone."),
        drops=_LIGHTLY,
        default="k",
        signature=(r"(query|student)_backbone\..*",),
    ),
    Layout(
        family="lightly",
        source=_LIGHTLY_SOURCE,
        q=("backbone.",),
        k=_OWN,
        drops=_LIGHTLY,
        naming="sequential",
    ),
    Layout(
        family="lightly",
        source="lightly-ai/lightly@e8d317f, examples/pytorch/dino.py",
        q=("student_backbone.",),
        k=("teacher_backbone.",),
        drops=_LIGHTLY,
        default="k",
        naming="sequential",
    ),
)

_VISSL_SOURCE = "facebookresearch/vissl@09270ed, vissl/models/trunks/resnext.py, vissl/utils/checkpoint.py"
_VISSL = "classy_state_dict.base_model.model"
VISSL = (
    Layout(
        family="vissl",
        source=f"{_VISSL_SOURCE}, vissl/hooks/moco_hooks.py, hook_utils.py",
        containers=(f"{_VISSL}.trunk",),
        q=("_feature_blocks.", "base_model._feature_blocks."),
        k=tuple(
            f"{who}.{wrapper}trunk.{base}_feature_blocks."
            for who in ("moco_encoder", "momentum_teacher")
            for wrapper in ("", "module.")
            for base in ("", "base_model.")
        ),
        k_containers=("classy_state_dict.loss",),
        drops=(
            Drop("projection head", r"(moco_encoder|momentum_teacher)\.(module\.)?heads\..*"),
            Drop("queue", r"queue(_ptr)?"),
            Drop("loss", r"center"),
        ),
        beside=((f"{_VISSL}.heads", "projection head"),),
    ),
    Layout(
        family="vissl",
        source=f"{_VISSL_SOURCE}, extra_scripts/convert_vissl_to_torchvision.py",
        containers=("model_state_dict", "state_dict", ""),
        q=("_feature_blocks.", "trunk._feature_blocks.", "trunk.base_model._feature_blocks."),
        drops=(Drop("projection head", r"heads\..*"),),
    ),
)

# eval_knn.py and eval_linear.py: `--checkpoint_key teacher` is the default. utils.load_pretrained_weights strips
# `module.` and `backbone.`. The published ResNet-50 is flat.
DINO = Layout(
    family="dino",
    source="facebookresearch/dino@7c446df, main_dino.py, utils.py, eval_knn.py",
    methods=((r".*", "DINO"),),
    containers=("student",),
    q=("backbone.",),
    k=("backbone.",),
    k_containers=("teacher",),
    drops=(Drop("projection head", r"head\..*"),),
    beside=(("dino_loss", "loss"),),
    default="k",
)

# The published ones are flat, below `module.`. Its padding layer and conv1's padding of 2 are torchvision's 3.
SWAV = Layout(
    family="swav",
    source="facebookresearch/swav@06b1b7c, src/resnet50.py, main_swav.py",
    methods=((r".*", "SwAV"),),
    q=("",),
    drops=(Drop("projection head", r"projection_head\..*"), Drop("prototypes", r"prototypes\..*")),
    signature=(r"(projection_head|prototypes)\..*",),
)

BYOL = (
    # eval/linear_feature_eval.ipynb takes the online network. `projetion` is its spelling.
    Layout(
        family="pytorch-byol",
        source="sthalles/PyTorch-BYOL@f007ed6, trainer.py, models/resnet_base_network.py",
        methods=((r".*", "BYOL"),),
        containers=("online_network_state_dict",),
        q=("encoder.",),
        k=("encoder.",),
        k_containers=("target_network_state_dict",),
        drops=(Drop("projection head", r"projetion\..*"),),
        naming="sequential",
    ),
    # README.md saves the online network. `net` is registered in BYOL and in its wrapper.
    Layout(
        family="byol-pytorch",
        source="lucidrains/byol-pytorch@2993126, byol_pytorch/byol_pytorch.py, examples/lightning/train.py",
        methods=((r".*", "BYOL"),),
        q=("online_encoder.net.", "learner.online_encoder.net."),
        k=("target_encoder.net.", "learner.target_encoder.net."),
        aliases=("net.", "learner.net."),
        drops=(
            Drop("classifier", r"(learner\.)?((online|target)_encoder\.)?net\.fc\..*"),
            Drop("projection head", r"(learner\.)?(online|target)_encoder\.projector\..*"),
            Drop("predictor", r"(learner\.)?online_predictor\..*"),
        ),
    ),
)

BARLOW_TWINS = Layout(
    family="barlowtwins",
    source="facebookresearch/barlowtwins@8e8d284, main.py",
    methods=((r".*", "Barlow Twins"),),
    containers=("model",),
    q=("backbone.",),
    drops=(Drop("projection head", r"projector\..*"), Drop("loss", r"bn\..*")),
)

SELF_SUPERVISED: tuple[Layout, ...] = (
    *MOCO,
    SIMSIAM,
    *SOLO_LEARN,
    *OPENMMLAB,
    PYCONTRAST,
    *LIGHTLY,
    *VISSL,
    DINO,
    SWAV,
    *BYOL,
    BARLOW_TWINS,
)
