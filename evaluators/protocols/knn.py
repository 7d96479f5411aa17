"""The frozen protocols of the task `knn`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.knn import KnnSettings

_RANKS = "equal similarities rank by the lower index in the sorted list of training images"
_WEIGHTED = (
    f"weight exp(cos / T); {_RANKS}, equal votes by the lower class index; only classes that got a vote count for "
    "top-5."
)
_NEAREST = "Accuracy in percent of a vote among the {k} nearest training images, n = validation images:"
_POOLED = "cosine similarity of L2-normalised pooled res5 features"
_HEAD = "cosine similarity of L2-normalised embeddings of the projection head (128-d in the source)"
_DINO = f"{_NEAREST.format(k=20)} {_POOLED}, {_WEIGHTED}"
_NOTEBOOK = "facebookresearch/moco@f736491 colab/moco_cifar10_demo.ipynb"

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="knn-instdisc@1",
        title="kNN top-1 (InstDisc)",
        citation=(
            "Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018 "
            "(arXiv:1805.01978), section 3.4; zhirongw/lemniscate.pytorch@f7cfe29 test.py and main.py"
        ),
        definition=(
            f"{_NEAREST.format(k=200)} {_HEAD}, {_WEIGHTED} The training images are embedded anew in the validation "
            "view, as the source's option recompute_memory does; its published numbers come from the memory bank, "
            "which holds running means over augmented views."
        ),
        headline="top1_k200",
        settings=KnnSettings(layer="head", k=(200,), temperature=0.07, resize=256, crop=224, interpolation="bilinear"),
        expected=tuple(
            Expected(
                method="NPID 200ep",
                arch=arch,
                metric="top1_k200",
                value=value,
                source="zhirongw/lemniscate.pytorch@f7cfe29 README.md",
            )
            for arch, value in (("resnet18", 41.0), ("resnet50", 46.8))
        ),
    ),
    Protocol(
        id="knn-dino@1",
        title="kNN top-1",
        citation="DINO (arXiv:2104.14294), section 4.1 and eval_knn.py",
        definition=_DINO,
        headline="top1_k20",
        settings=KnnSettings(k=(10, 20, 100, 200), temperature=0.07, resize=256, crop=224, interpolation="bicubic"),
        expected=(
            Expected(
                method="MoCo v2 800ep",
                arch="resnet50",
                metric="top1_k20",
                value=61.9,
                source="arXiv:2104.14294 Table 2",
            ),
        ),
    ),
    Protocol(
        id="knn-simsiam@1",
        title="kNN top-1 (SimSiam)",
        citation=(
            "Chen and He, SimSiam, CVPR 2021 (arXiv:2011.10566), appendix; its code was never released: k, T and the "
            "layer are an author's words in facebookresearch/simsiam issue 10"
        ),
        definition=(
            f"{_NEAREST.format(k=200)} {_POOLED}, {_WEIGHTED} The source does not say the view: it is that of its "
            "linear evaluation (resize 256, centre crop 224, bilinear)."
        ),
        headline="top1_k200",
        settings=KnnSettings(k=(200,), temperature=0.2, resize=256, crop=224, interpolation="bilinear"),
    ),
    Protocol(
        id="knn-moco-colab@1",
        title="kNN top-1 (MoCo notebook)",
        citation=f"{_NOTEBOOK}, the functions test and knn_predict; branch colab-notebook",
        definition=(
            f"{_NEAREST.format(k=200)} {_HEAD}, {_WEIGHTED} Of the notebook's setting this has the embedding, k, T, "
            "the vote, and the view of images of 32 pixels as they are: CIFAR's are not resized, larger ones are, to "
            "32 pixels. Not part of it: CIFAR-10 itself and its mean and std, the ResNet-18 with a 3x3 stem and no "
            "max-pooling, and the training; the data set is yours, network and normalisation are the backbone's."
        ),
        headline="top1_k200",
        settings=KnnSettings(layer="head", k=(200,), temperature=0.1, resize=32, crop=32, interpolation="bilinear"),
        expected=tuple(
            Expected(
                method=f"MoCo notebook, {loss} loss, CIFAR-10, {epochs}ep",
                arch="resnet18, CIFAR stem",
                metric="top1_k200",
                value=value,
                source=_NOTEBOOK,
            )
            for loss, values in (("asymmetric", (82.6, 86.3, 88.7)), ("symmetric", (85.3, 88.5, 89.7)))
            for epochs, value in zip((200, 400, 800), values, strict=True)
        ),
    ),
    Protocol(
        id="knn-msf@1",
        title="20-NN top-1 (MSF)",
        citation=(
            "Koohpayegani et al., Mean Shift for Self-Supervised Learning, ICCV 2021 (arXiv:2105.07269), section 4; "
            "UMBCvision/MSF@130191c eval_knn.py"
        ),
        definition=(
            f"{_NEAREST.format(k=20)} {_POOLED}, every neighbour has one vote; {_RANKS}, equal votes by the nearer "
            "nearest neighbour. The source searches in fp16 and breaks ties of votes at random: the headline "
            "top1_k20_random_ties is the mean over all such draws. top1_k1 is the class of the nearest image."
        ),
        headline="top1_k20_random_ties",
        settings=KnnSettings(k=(1, 20), vote="majority", resize=256, crop=224, interpolation="bilinear"),
        expected=tuple(
            Expected(
                method="MSF 200ep",
                arch="resnet50",
                metric=metric,
                value=value,
                source="UMBCvision/MSF@130191c README.md",
            )
            for metric, value in (("top1_k1", 62.5), ("top1_k20_random_ties", 65.7))
        ),
    ),
    Protocol(
        id="quickstart-knn@1",
        title="kNN top-1",
        citation="knn-dino@1 at the size of the generated sample data (64 px images, networks trained at 32 px)",
        definition=_DINO,
        headline="top1_k20",
        # 46 / 40 is about the ratio 256 / 224. Images this small are decoded faster than a worker process starts.
        settings=KnnSettings(
            k=(10, 20, 100, 200), temperature=0.07, resize=46, crop=40, interpolation="bicubic", workers=0
        ),
    ),
)
