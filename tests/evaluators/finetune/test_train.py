from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision.transforms as T
from torch import Tensor

from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from evaluators.datasets import image_folder
from evaluators.datasets.labelled import LabelledImages, load_image
from evaluators.finetune import state as state_module
from evaluators.finetune.model import head
from evaluators.finetune.state import State
from evaluators.finetune.train import Rates, order_of, train
from evaluators.images import Images, Key, stream
from evaluators.settings.finetune import FinetuneSettings
from tests import image_folders
from tests.evaluators.finetune.tuning import SEED, SETTINGS, start
from tests.reference import finetune_naive

RATES = Rates(0.02, 1e-3)
ORDER = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """18 training images: batches of 7, 7 and 4."""
    return image_folder.read(image_folders.make(tmp_path_factory.mktemp("data") / "colours"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def plain_batches(data: LabelledImages, passes: int) -> list[list[tuple[Tensor, Tensor]]]:
    """The same draws, made by hand with torchvision's transforms."""
    normalise = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    plain = T.Compose([T.RandomResizedCrop(40), T.RandomHorizontalFlip(), T.ToTensor(), normalise])
    epochs = []
    for epoch in range(passes):
        items = []
        for index in order_of(len(data.train), ORDER, epoch):
            torch.manual_seed(stream(SEED, 2, epoch, index))
            items.append((plain(load_image(data.train[index].path)), data.train[index].label))
        chunks = [items[first : first + 7] for first in range(0, len(items), 7)]
        epochs.append([(torch.stack([x for x, _ in chunk]), torch.tensor([y for _, y in chunk])) for chunk in chunks])
    return epochs


@pytest.mark.parametrize("cosine", [False, True], ids=["step", "cosine"])
def test_training_equals_the_plain_loop(backbone: Backbone, data: LabelledImages, tmp_path: Path, cosine: bool) -> None:
    change = {"schedule": "cosine", "steps": 5, "epochs": None, "nesterov": True} if cosine else {}
    settings = FinetuneSettings.model_validate(SETTINGS.model_dump() | change)
    epochs = plain_batches(data, 2)
    if cosine:
        epochs[1] = epochs[1][:2]  # 5 steps: the second pass ends early
    model = backbone.module()
    model.fc = head(512, 3, settings, 1)
    losses = finetune_naive.train(
        model,
        epochs,
        lr=0.02,
        head_factor=5.0,
        weight_decay=1e-3,
        nesterov=cosine,
        milestones=None if cosine else (1,),
        gamma=0.2,
    )
    module, images = start(backbone, data, tmp_path, settings)
    curve = train(module, images, settings, RATES, order_seed=ORDER, state=State(tmp_path / "state", "a"), label="tune")
    sizes = [7, 7, 4, 7, 7, 4][: len(losses)]
    assert curve[0].loss == pytest.approx(sum(a * b for a, b in zip(sizes[:3], losses[:3], strict=True)) / 18, rel=1e-4)
    assert curve[1].loss == pytest.approx(
        sum(a * b for a, b in zip(sizes[3:], losses[3:], strict=True)) / sum(sizes[3:]), rel=1e-3
    )
    expected, found = model.state_dict(), module.state_dict()
    assert set(expected) == set(found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
        if name.endswith("weight"):
            before = backbone.tensors.get(name)
            assert before is None or not torch.equal(found[name], before), f"{name} was not trained"


class Dies(Images):
    """Gone in the third epoch."""

    def __getitem__(self, key: Key) -> object:  # type: ignore[override]
        if key[0] == 2:
            raise KeyboardInterrupt
        return super().__getitem__(key)


def test_a_training_that_was_killed_goes_on_to_the_bit(
    backbone: Backbone, data: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_INTERVAL", 0.0)
    settings = SETTINGS.model_copy(update={"epochs": 3, "milestones": (1, 2)})

    def tune(name: str, *, dies: bool = False) -> tuple[dict[str, Tensor], object]:
        module, images = start(backbone, data, tmp_path, settings)
        if dies:
            images = Dies(images.samples, images.transform, images.seed)
        state = State(tmp_path / name, "a")
        curve = train(module, images, settings, RATES, order_seed=ORDER, state=state, label="tune")
        return module.state_dict(), curve

    whole, curve = tune("whole")
    with pytest.raises(KeyboardInterrupt):
        tune("cut", dies=True)
    assert len(torch.load(tmp_path / "cut", weights_only=True)["curve"]) == 2
    # What is done is not done again: it would die again if it were.
    again, curve_again = tune("cut")
    assert curve == curve_again
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_another_trainings_state_and_a_damaged_one_are_ignored(
    backbone: Backbone, data: LabelledImages, tmp_path: Path
) -> None:
    module, _ = start(backbone, data, tmp_path)
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    path = tmp_path / "state"
    State(path, "a").save(module, sgd, [{"epoch": 1}], last=True)
    assert State(path, "b").load(module, sgd) == []
    assert State(path, "a").load(module, sgd) == [{"epoch": 1}]
    path.write_bytes(path.read_bytes()[:1000])
    assert State(path, "a").load(module, sgd) == []


def test_a_loss_that_is_not_finite_names_lr_and_step(backbone: Backbone, data: LabelledImages, tmp_path: Path) -> None:
    module, images = start(backbone, data, tmp_path)
    state = State(tmp_path / "state", "a")
    with pytest.raises(CheckFailed, match=r"the loss is (nan|inf) at epoch 1, step [23] with lr 1e\+30.*batch 7"):
        train(module, images, SETTINGS, Rates(1e30, 0.0), order_seed=0, state=state, label="tune")


def test_a_batch_of_one_image_with_a_map_of_one_pixel_is_refused(
    backbone: Backbone, data: LabelledImages, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 17, "crop": 32})
    module, images = start(backbone, data, tmp_path, settings)
    with pytest.raises(UserError, match=r"more than one value a channel.*last batch of one image.*larger crop"):
        train(module, images, settings, RATES, order_seed=0, state=State(tmp_path / "s", "a"), label="tune")


def test_the_head_starts_as_declared() -> None:
    normal = head(2048, 1000, SETTINGS, 0)
    assert normal.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not normal.bias.any()
    settings = SETTINGS.model_copy(update={"head_init": "uniform"})
    uniform, bound = head(2048, 1000, settings, 0), 2048**-0.5
    for parameter in uniform.parameters():
        assert parameter.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not torch.equal(uniform.weight, head(2048, 1000, settings, 1).weight)
