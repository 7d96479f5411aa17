from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
import torchvision.transforms as T
from numpy.typing import NDArray
from PIL import Image

from converters import distributed
from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from converters.projection import ProjectionHead
from evaluators.datasets import image_folder
from evaluators.datasets.labelled import Split
from evaluators.features.compute import Features
from evaluators.job import Job, Outcome, evaluate
from evaluators.predictions import accuracy
from evaluators.protocol import NotApplicable, Protocol
from evaluators.protocols import CATALOGUE
from tests import image_folders
from tests.distributed import run_ranks
from tests.reference import knn_naive, knn_torch


def features(values: object, labels: object) -> Features:
    return Features(np.asarray(values, dtype=np.float32), np.asarray(labels, dtype=np.int64))


def oracle(bank: Features, queries: NDArray[np.float32], k: int) -> list[list[int]]:
    """Ranked classes at T 0.07, at most five, filled up with -1."""
    ranked = [
        knn_naive.ranked_classes(bank.values.tolist(), bank.labels.tolist(), query, k, 0.07)[:5]
        for query in queries.tolist()
    ]
    return [classes + [-1] * (5 - len(classes)) for classes in ranked]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folders.make(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


PROTOCOL = CATALOGUE["quickstart-knn@1"].overridden(("resize=36", "crop=32", "k=[3, 20]", "batch_size=7"))


def approximate(search: str) -> Protocol:
    return CATALOGUE["quickstart-knn@1"].overridden(
        ("resize=36", "crop=32", "k=[3, 20]", "batch_size=7", f"search={search}", "probes=1")
    )


def job(
    backbone: Backbone, root: Path, workdir: Path, protocol: Protocol = PROTOCOL, features: Path | None = None
) -> Job:
    cache = features or workdir / "features"
    return Job(backbone, root, protocol, seed=0, device=torch.device("cpu"), workdir=workdir, features=cache)


def test_evaluate_equals_a_plain_pipeline(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    outcome = evaluate(job(backbone, root, tmp_path))
    plain = T.Compose(
        [
            T.Resize(36, T.InterpolationMode.BICUBIC),
            T.CenterCrop(32),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def split(name: str) -> Features:
        paths = sorted((root / name).rglob("*.png"))
        with torch.no_grad():
            rows = backbone.module()(torch.stack([plain(Image.open(path)) for path in paths]))
        return features(rows.numpy(), [sorted(image_folders.COLOURS).index(path.parent.name) for path in paths])

    train, val = split("train"), split("val")
    found = {metric.name: metric for metric in outcome.metrics}
    assert list(found) == ["top1_k3", "top5_k3", "top1_k20", "top5_k20"]
    for k in (3, 20):
        ranked = np.array(oracle(train, val.values, k))
        assert found[f"top1_k{k}"].value == accuracy(ranked, val.labels, 1)
        assert found[f"top5_k{k}"].value == accuracy(ranked, val.labels, 5)
    assert {metric.n for metric in outcome.metrics} == {9}
    assert outcome.dataset.images == {"train": 18, "val": 9}
    engine = f"neighbours: exact search by FAISS {faiss.__version__} on the CPU"
    assert outcome.notes == (engine, "k 20 capped at the 18 training images")
    written = np.load(tmp_path / "predictions.npz")
    assert written["labels"].tolist() == val.labels.tolist()
    assert written["predicted_k3"].tolist() == [row[0] for row in oracle(train, val.values, 3)]
    assert written["paths"].tolist() == [p.relative_to(root).as_posix() for p in sorted((root / "val").rglob("*.png"))]
    assert written["classes"].tolist() == ["blue", "green", "red"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "features",
        "predictions.npz",
        "per_class.csv",
        "confusions.csv",
        "most_wrong.csv",
    }
    receipt = outcome.receipt
    assert receipt.backbone == receipt.live == receipt.after == backbone.fingerprint
    assert receipt.framework == "torchvision"
    assert receipt.preprocess.mean == pytest.approx(IMAGENET_MEAN, rel=1e-5)
    assert evaluate(job(backbone, root, tmp_path)) == outcome


def test_a_tampered_model_fails_before_the_first_image(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folders.make(tmp_path / "damaged", train=1, val=1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image: reading it would be another error")
    model = backbone.module()
    with torch.no_grad():
        model.get_parameter("layer3.1.conv2.weight")[0, 0, 0, 0] += 1e-6
    monkeypatch.setattr(Backbone, "module", lambda _: model)
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        evaluate(job(backbone, root, tmp_path))


def test_the_headline_must_be_measured(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    protocol = CATALOGUE["quickstart-knn@1"].overridden(("k=[1, 5]",))
    with pytest.raises(UserError, match=r"settings\.k: .*headline top1_k20, found \[1, 5\]; keep 20 in it"):
        evaluate(job(backbone, root, tmp_path, protocol))
    weighted = CATALOGUE["knn-msf@1"].overridden(("vote=weighted",))
    with pytest.raises(UserError, match=r"settings\.vote: expected a majority vote, .*top1_k20_random_ties"):
        evaluate(job(backbone, root, tmp_path, weighted))


def test_a_foreign_input_convention_gives_the_same_numbers(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    """The same network written for BGR images of 0 to 255 without a std, as Caffe2 models are."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    tensors = dict(backbone.tensors)
    tensors["conv1.weight"] = (tensors["conv1.weight"] / (255 * std).view(1, 3, 1, 1)).flip(1).contiguous()
    b, g, r = (255 * mean).flip(0).tolist()
    foreign = replace(
        backbone,
        tensors=tensors,
        preprocess=backbone.preprocess.model_copy(
            update={
                "channel_order": "BGR",
                "mean": (b, g, r),
                "std": (1.0, 1.0, 1.0),
                "value_range": (0.0, 255.0),
            }
        ),
    )
    ours, theirs = (evaluate(job(each, root, tmp_path)) for each in (backbone, foreign))
    assert theirs.metrics == ours.metrics
    assert theirs.receipt.preprocess.channel_order == "BGR"


def test_a_majority_vote_reports_the_mean_of_its_random_ties(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    protocol = CATALOGUE["knn-msf@1"].overridden(("resize=36", "crop=32", "k=[1, 4, 20]", "workers=0"))
    outcome = evaluate(job(backbone, root, tmp_path, protocol))
    found = {metric.name: metric.value for metric in outcome.metrics}
    assert list(found) == [
        *(f"top{top}_k{k}" for k in (1, 4, 20) for top in (1, 5)),
        *(f"top1_k{k}_random_ties" for k in (1, 4, 20)),
    ]
    assert found["top1_k1"] == found["top1_k1_random_ties"]
    # All 18 training images vote, six of each class: a tie of three.
    assert found["top1_k20_random_ties"] == pytest.approx(100 / 3)
    assert found["top1_k20"] == found["top1_k1"]


def test_an_approximate_search_reports_its_agreement_with_the_exact_one(
    backbone: Backbone, root: Path, tmp_path: Path
) -> None:
    exact = evaluate(job(backbone, root, tmp_path))
    for search, all_found in (("fp16", True), ("ivf", False)):
        outcome = evaluate(job(backbone, root, tmp_path, approximate(search)))
        added = {metric.name: metric for metric in outcome.metrics[len(exact.metrics) :]}
        assert list(added) == ["found_k3", "same_top1_k3", "found_k20", "same_top1_k20"]
        assert {metric.n for metric in added.values()} == {9}
        assert all(0 <= metric.value <= 100 for metric in added.values())
        assert (added["found_k20"].value == 100) or not all_found
        assert search in outcome.notes[0].lower()


def test_a_class_without_a_training_image_is_told(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    data = image_folder.read(root)
    split = replace(data.train, labels=np.minimum(data.train.labels, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_folder, "read", lambda _: replace(data, train=split))
        outcome = evaluate(job(backbone, root, tmp_path))
    assert outcome.notes[-1] == "1 of 3 classes have no training image, so none of their images can be right"


def test_a_protocol_of_the_embedding(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    """It sees what lies behind the projection head; without a head it does not apply."""
    protocol = CATALOGUE["knn-moco-colab@1"].overridden(("k=[3, 200]", "workers=0"))
    with pytest.raises(NotApplicable, match="found none beside the backbone"):
        evaluate(job(backbone, root, tmp_path, protocol))
    rng = np.random.default_rng(0)
    weight, bias = (torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for shape in ((16, 512), (16,)))
    headed = replace(backbone, head=ProjectionHead({"weight": weight, "bias": bias}))
    outcome = evaluate(job(headed, root, tmp_path, protocol))
    data = image_folder.read(root)
    view = T.Compose([T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])  # 32 pixels as they are

    def split(images: Split) -> Features:
        with torch.no_grad():
            pooled = backbone.module()(torch.stack([view(images.load(index)) for index in range(len(images))]))
        return features(pooled.numpy() @ weight.numpy().T + bias.numpy(), images.labels)

    train, val = split(data.train), split(data.val)
    cosines, order = knn_torch.nearest(torch.from_numpy(train.values), torch.from_numpy(val.values), 18)
    found = {metric.name: metric.value for metric in outcome.metrics}
    for k in (3, 200):
        voting = torch.from_numpy(train.labels)[order[:, :k]]
        ranked = knn_torch.weighted(cosines[:, :k], voting, 3, 0.1)
        assert found[f"top1_k{k}"] == accuracy(ranked.numpy(), val.labels, 1)


def in_a_rank(rank: int, root: Path, folder: Path, alone: dict[str, Outcome]) -> None:
    backbone = random_backbone("resnet18", 0)
    for name, before in alone.items():
        workdir = folder / name
        workdir.mkdir(parents=True, exist_ok=True)
        assert evaluate(job(backbone, root, workdir, GROUP_PROTOCOLS[name], folder / "features")) == before
    first = image_folder.read(root).train.paths[0]
    if rank == 0:
        first.write_bytes(first.read_bytes()[:40])
    distributed.gather_values(None)
    with pytest.raises(UserError, match=r"00\.png: expected an image that can be decoded"):
        evaluate(job(backbone, root, folder))


GROUP_PROTOCOLS = {
    "weighted": PROTOCOL,
    "majority": CATALOGUE["knn-msf@1"].overridden(("resize=36", "crop=32", "workers=0")),
    "ivf": approximate("ivf"),
}


def test_processes_share_the_queries_and_agree(backbone: Backbone, root: Path, tmp_path: Path) -> None:
    """Nine queries, two processes: shares of four and five."""
    copy = shutil.copytree(root, tmp_path / "data" / "colours")
    alone = {}
    for name, protocol in GROUP_PROTOCOLS.items():
        (tmp_path / "alone" / name).mkdir(parents=True)
        alone[name] = evaluate(job(backbone, copy, tmp_path / "alone" / name, protocol, tmp_path / "features"))
    run_ranks(in_a_rank, 2, copy, tmp_path / "group", alone)
    for name in GROUP_PROTOCOLS:
        one, other = (np.load(tmp_path / folder / name / "predictions.npz") for folder in ("alone", "group"))
        assert all((one[key] == other[key]).all() for key in one.files)
