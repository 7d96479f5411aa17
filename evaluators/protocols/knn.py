"""The frozen protocols of the task `knn`. A change of any setting needs a new version."""

from __future__ import annotations

from evaluators.protocol import Expected, Protocol
from evaluators.settings.knn import KnnSettings

_DEFINITION = (
    "Accuracy in percent of a vote among the 20 nearest training images, n = validation images: cosine similarity of "
    "L2-normalised pooled res5 features, weight exp(cos / T); equal similarities rank by the lower index in the sorted "
    "list of training images, equal votes by the lower class index; only classes that got a vote count for top-5."
)

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        id="knn-dino@1",
        title="kNN top-1",
        citation="DINO (arXiv:2104.14294), section 4.1 and eval_knn.py",
        definition=_DEFINITION,
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
        id="quickstart-knn@1",
        title="kNN top-1",
        citation="knn-dino@1 at the size of the generated sample data (64 px images, networks trained at 32 px)",
        definition=_DEFINITION,
        headline="top1_k20",
        # 46 / 40 is about the ratio 256 / 224. Images this small are decoded faster than a worker process starts.
        settings=KnnSettings(
            k=(10, 20, 100, 200), temperature=0.07, resize=46, crop=40, interpolation="bicubic", workers=0
        ),
    ),
)
