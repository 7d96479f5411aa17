from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from torch import Tensor, nn

from converters.backbone import Backbone
from converters.errors import CheckFailed
from converters.families import random_backbone
from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from evaluators.datasets import image_folder
from evaluators.datasets.labelled import LabelledImages, load_image
from evaluators.features.frozen import Frozen, freeze
from evaluators.images import View, random_view, stream
from evaluators.job import Job, Outcome, evaluate
from evaluators.linear.batches import FeatureBatches
from evaluators.linear.heads import Heads, start
from evaluators.linear.resume import Unfinished
from evaluators.linear.training import order, scale, train
from evaluators.protocols import CATALOGUE
from evaluators.settings.linear import LinearSettings
from tests import image_folders
from tests.reference import linear_naive

SETTINGS = LinearSettings(
    epochs=2, batch_size=7, lr=0.05, milestones=(1,), weight_decay=1e-3, crop=32, resize=36, workers=0
)
SEED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return image_folder.read(image_folders.make(tmp_path_factory.mktemp("data") / "colours"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def probe(backbone: Backbone) -> tuple[Frozen, View]:
    view = random_view(
        backbone.preprocess, crop=SETTINGS.crop, scale=SETTINGS.crop_scale, interpolation=SETTINGS.interpolation
    )
    return freeze(backbone, torch.device("cpu"), [view]), view


def batches_of(data: LabelledImages, frozen: Frozen, view: View) -> FeatureBatches:
    return FeatureBatches(frozen, data.train, view, seed=SEED, settings=SETTINGS, device=torch.device("cpu"))


def head(lr: float = SETTINGS.lr) -> Heads:
    return Heads(start(512, 3, 0.01, SEED), lr=[lr], weight_decay=[SETTINGS.weight_decay], momentum=SETTINGS.momentum)


def trained(backbone: Backbone, data: LabelledImages) -> tuple[Frozen, Heads]:
    (frozen, view), heads = probe(backbone), head()
    list(train(heads, batches_of(data, frozen, view), epochs=2, milestones=(1,), n=18, seed=SEED))
    return frozen, heads


def plain_batches(data: LabelledImages) -> list[list[tuple[Tensor, Tensor]]]:
    """The same draws, made by hand with torchvision's transforms."""
    plain = T.Compose(
        [
            T.RandomResizedCrop(32),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    epochs = []
    for epoch in range(SETTINGS.epochs):
        items = []
        for index in order(len(data.train), SEED, epoch):
            torch.manual_seed(stream(SEED, 2, epoch, index))
            items.append((plain(load_image(data.train[index].path)), data.train[index].label))
        chunks = [items[start : start + 7] for start in range(0, len(items), 7)]
        epochs.append([(torch.stack([x for x, _ in c]), torch.tensor([y for _, y in c])) for c in chunks])
    return epochs


def test_training_equals_the_reference_loop(backbone: Backbone, data: LabelledImages) -> None:
    model = backbone.module()
    model.fc = nn.Linear(512, 3)
    nn.init.zeros_(model.fc.bias)
    model.fc.weight.data.copy_(head().weight[0])
    losses = linear_naive.train(model, plain_batches(data), lr=0.05, milestones=(1,), momentum=0.9, weight_decay=1e-3)
    (frozen, view), heads = probe(backbone), head()
    curve = list(train(heads, batches_of(data, frozen, view), epochs=2, milestones=(1,), n=18, seed=SEED))
    assert [epoch.scale for epoch in curve] == pytest.approx([1.0, 0.1])
    sizes = [7, 7, 4]
    for number, epoch in enumerate(curve):
        steps = losses[3 * number : 3 * number + 3]
        assert epoch.loss == pytest.approx([sum(a * b for a, b in zip(sizes, steps, strict=True)) / 18], rel=1e-5)
    torch.testing.assert_close(heads.weight[0], model.get_parameter("fc.weight").detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(heads.bias[0], model.get_parameter("fc.bias").detach(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(heads.weight, head().weight)


def test_the_backbone_stays_as_it_is_to_the_bit(backbone: Backbone, data: LabelledImages) -> None:
    before = backbone.module().state_dict()
    frozen, _ = trained(backbone, data)
    frozen.still_frozen()  # the copy that computed too
    after = frozen.module.state_dict()
    # Batch counters are among them: one forward in train mode would show there.
    assert len(before) == 120
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in frozen.module.modules())
    assert all(parameter.grad is None for parameter in frozen.module.parameters())


def test_a_copy_that_changes_in_mid_training_fails_the_proof(backbone: Backbone, data: LabelledImages) -> None:
    frozen, view = probe(backbone)
    batches = batches_of(data, frozen, view)
    (net,) = frozen.networks  # what computes every feature

    def changing(epoch: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(epoch, order)
        with torch.inference_mode():
            net.module.trunk.layer4[0].conv1.weight[0, 0, 0, 0] += 1e-7

    list(train(head(), changing, epochs=2, milestones=(1,), n=18, seed=SEED))
    with pytest.raises(CheckFailed, match="the copy of the frozen backbone that computes features changed"):
        frozen.still_frozen()


def test_a_backbone_in_train_mode_is_put_right(backbone: Backbone, data: LabelledImages) -> None:
    frozen, view = probe(backbone)
    frozen.module.train()
    list(train(head(), batches_of(data, frozen, view), epochs=2, milestones=(1,), n=18, seed=SEED))
    assert frozen.still_frozen().after == backbone.fingerprint


def test_a_backbone_that_can_be_trained_is_refused(backbone: Backbone, data: LabelledImages) -> None:
    frozen, view = probe(backbone)
    frozen.module.get_parameter("bn1.bias").requires_grad_(True)
    with pytest.raises(CheckFailed, match="expected a frozen backbone, found 1 tensors that can be trained"):
        batches_of(data, frozen, view)


def test_a_loss_that_is_not_finite_names_the_step(backbone: Backbone, data: LabelledImages) -> None:
    frozen, view = probe(backbone)
    with pytest.raises(
        CheckFailed, match=r"the loss is (nan|inf) at epoch 1, step [23] with lr 1e\+38: it is too large"
    ):
        list(train(head(1e38), batches_of(data, frozen, view), epochs=2, milestones=(1,), n=18, seed=SEED))


def test_the_head_starts_from_the_seed() -> None:
    weight = start(2048, 1000, 0.01, 0)
    assert weight.shape == (1, 1000, 2048)
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert weight.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert torch.equal(weight, start(2048, 1000, 0.01, 0))
    assert not torch.equal(weight, start(2048, 1000, 0.01, 1))
    assert not head().bias.any()


def test_every_epoch_has_an_order_of_its_own() -> None:
    orders = [order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert len({tuple(each) for each in orders}) == 4


def test_learning_rate_falls_at_60_and_80() -> None:
    settings = CATALOGUE["linear-moco@1"].settings
    assert isinstance(settings, LinearSettings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=30.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[60, 80], gamma=0.1)
    for epoch in range(100):
        assert settings.lr * scale(settings.milestones, epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def run(backbone: Backbone, data: LabelledImages, workdir: Path, seed: int, *overrides: str) -> Outcome:
    workdir.mkdir(exist_ok=True)
    protocol = CATALOGUE["quickstart-linear@1"].overridden(
        ("resize=36", "crop=32", "epochs=3", "milestones=[2]", "batch_size=6", "lr=0.02", *overrides)
    )
    return evaluate(
        Job(
            backbone,
            data.root,
            protocol,
            seed=seed,
            device=torch.device("cpu"),
            workdir=workdir,
            features=workdir / "features",
        )
    )


def test_evaluate(backbone: Backbone, data: LabelledImages, tmp_path: Path) -> None:
    outcome = run(backbone, data, tmp_path / "a", 0)
    found = {metric.name: metric.value for metric in outcome.metrics}
    assert list(found) == ["top1", "top5", "top1_best"]
    assert all(metric.n == 9 and metric.unit == "%" for metric in outcome.metrics)
    with (tmp_path / "a" / "linear.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    assert [row["epoch"] for row in curve] == ["1", "2", "3"]
    assert found["top1"] == pytest.approx(float(curve[-1]["val_top1"]), abs=1e-3)
    assert found["top1_best"] == pytest.approx(max(float(row["val_top1"]) for row in curve), abs=1e-3)
    assert all(math.isfinite(float(row["loss"])) for row in curve)
    # Three plain colours are easy even for random features, and there are fewer than five classes.
    assert found["top1"] > 60.0
    assert found["top5"] == 100.0
    receipt = outcome.receipt
    assert receipt.backbone == receipt.live == receipt.after == backbone.fingerprint
    with (tmp_path / "a" / "per_class.csv").open(newline="") as file:
        per_class = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert np.mean(per_class) == pytest.approx(found["top1"])  # three images of every class
    written = np.load(tmp_path / "a" / "predictions.npz")
    assert 100.0 * (written["predicted_last"] == written["labels"]).mean() == pytest.approx(found["top1"])


def test_the_seed_decides_everything(backbone: Backbone, data: LabelledImages, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = run(backbone, data, tmp_path / "a", 5)
    torch.manual_seed(2)
    again = run(backbone, data, tmp_path / "b", 5)
    run(backbone, data, tmp_path / "c", 6)
    assert first == again
    curves = [(tmp_path / name / "linear.csv").read_text() for name in "abc"]
    assert curves[0] == curves[1] != curves[2]


def test_a_batch_larger_than_the_data_set_is_said(backbone: Backbone, data: LabelledImages, tmp_path: Path) -> None:
    outcome = run(backbone, data, tmp_path / "a", 0, "batch_size=64", "epochs=1")
    assert outcome.notes == ("batch 64 holds all 18 training images",)


def test_a_tampered_model_fails(
    backbone: Backbone, data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbone.module()
    model.get_buffer("bn1.running_var")[0] += 1.0
    monkeypatch.setattr(Backbone, "module", lambda _: model)
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        run(backbone, data, tmp_path / "a", 0)
    assert not any((tmp_path / "a").iterdir())


def test_an_evaluation_that_was_cut_off_goes_on_to_the_same_bits(
    backbone: Backbone, data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(backbone, data, tmp_path / "whole", 0)
    state = tmp_path / "cut" / "unfinished" / "training.safetensors"
    ranked, calls = Heads.rank, []

    def killed(self: Heads, features: Tensor, which: int) -> Tensor:
        calls.append(which)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ranked(self, features, which)

    with monkeypatch.context() as patch:
        patch.setattr(Heads, "rank", killed)
        with pytest.raises(KeyboardInterrupt):
            run(backbone, data, tmp_path / "cut", 0)
    assert len((tmp_path / "cut" / "linear.csv").read_text().splitlines()) == 3  # the head and two epochs
    shutil.copytree(tmp_path / "cut", tmp_path / "other")

    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Heads, "rank", lambda self, *args: (seen.append(1), ranked(self, *args))[1])
        assert run(backbone, data, tmp_path / "cut", 0) == whole
    assert len(seen) == 2, "one epoch was left, and the predictions"
    for name in ("linear.csv", "predictions.npz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    # What another seed left behind is no beginning for this one; nor is a damaged file.
    run(backbone, data, tmp_path / "clean", 1)
    assert (tmp_path / "other" / "unfinished" / state.name).exists()
    run(backbone, data, tmp_path / "other", 1)
    state.write_bytes(b"\0" * 100)
    run(backbone, data, tmp_path / "cut", 1)
    curves = [(tmp_path / name / "linear.csv").read_text() for name in ("clean", "other", "cut")]
    assert curves[0] == curves[1] == curves[2]


def test_what_changes_no_number_is_no_other_training(backbone: Backbone, tmp_path: Path) -> None:
    def state(*overrides: str, fresh: bool = False) -> Unfinished:
        protocol = CATALOGUE["quickstart-linear@1"].overridden(overrides)
        return Unfinished(Job(backbone, tmp_path, protocol, 0, torch.device("cpu"), tmp_path, tmp_path, fresh), "data")

    weight = torch.zeros(1)
    state().save({"weight": torch.ones(1)}, {"rows": [1]}, lambda: None)
    assert state("epochs=3").load({"weight": weight}) is None
    assert state("workers=3").load({"weight": weight}) == {"rows": [1]}
    assert weight == 1
    state(fresh=True)
    assert state().load({"weight": weight}) is None
