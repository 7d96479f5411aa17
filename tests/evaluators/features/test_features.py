from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor, nn

from converters.backbone import Backbone
from converters.errors import CheckFailed, UserError
from converters.families import random_backbone
from converters.metadata import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from converters.receipt import same_input
from evaluators.datasets import image_folder
from evaluators.datasets.labelled import LabelledImages, load_image
from evaluators.features.compute import compute
from evaluators.features.frozen import freeze
from evaluators.images import Batches, Images, ToInput, View, centre_view, random_view, read_back
from tests import image_folders

CPU = torch.device("cpu")
CAFFE2 = Preprocess(channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), value_range=(0.0, 255.0))
# Python 3.12 warns of every fork in a process with threads, and torch always has some.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return image_folder.read(image_folders.make(tmp_path_factory.mktemp("data") / "colours", train=3, val=2))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 0)


def view(preprocess: Preprocess) -> View:
    return centre_view(preprocess, resize=36, crop=32, interpolation="bicubic")


def test_the_default_input_is_that_of_torchvision(data: LabelledImages) -> None:
    image = load_image(data.train[0].path)
    plain = T.Compose([T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    assert torch.equal(ToInput(Preprocess())(image), plain(image))


@pytest.mark.parametrize(
    ("geometry", "steps"),
    [
        ("crop", [T.Resize(36), T.CenterCrop(32)]),
        ("squash", [T.Resize(36), T.Resize((32, 32))]),
        ("squash-crop", [T.Resize((36, 36)), T.CenterCrop(32)]),
    ],
)
def test_geometries(geometry: str, steps: list[nn.Module]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = centre_view(Preprocess(), resize=36, crop=32, interpolation="bilinear", geometry=geometry)(image)
    assert torch.equal(found, T.Compose([*steps, T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])(image))


def test_bgr_and_0_to_255() -> None:
    x = ToInput(CAFFE2)(Image.new("RGB", (2, 2), (10, 20, 30)))
    assert x[:, 0, 0].tolist() == pytest.approx([30 - 103.53, 20 - 116.28, 10 - 123.675])


@pytest.mark.parametrize("preprocess", [Preprocess(), CAFFE2])
def test_a_batch_of_pixels_becomes_bit_for_bit_what_each_image_does(
    preprocess: Preprocess, data: LabelledImages
) -> None:
    transform = view(preprocess)
    pictures = [load_image(path) for path, _ in data.train]
    batch = transform.to_input.of_pixels(torch.stack([transform.pixels(picture) for picture in pictures]))
    assert torch.equal(batch, torch.stack([transform(picture) for picture in pictures]))


@pytest.mark.parametrize("preprocess", [Preprocess(), CAFFE2, Preprocess(mean=(0.5, 0.4, 0.3), value_range=(-1, 1))])
def test_read_back_measures_what_a_transform_does(preprocess: Preprocess) -> None:
    for transform in (view(preprocess), random_view(preprocess, crop=24, scale=(0.1, 1.0), interpolation="bilinear")):
        assert same_input(read_back(transform), preprocess)


def test_read_back_leaves_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    read_back(random_view(Preprocess(), crop=24, scale=(0.1, 1.0), interpolation="bilinear"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_read_back_refuses_mixed_channels() -> None:
    with pytest.raises(CheckFailed, match="mixes the colour channels"):
        read_back(T.Compose([T.Grayscale(3), ToInput(Preprocess())]))


@pytest.mark.parametrize(
    "wrong",
    [
        Preprocess(mean=(0.485, 0.456, 0.4)),
        Preprocess(std=(0.225, 0.224, 0.229)),
        Preprocess(channel_order="BGR"),
        CAFFE2,
    ],
)
def test_receipt_refuses_another_input(backbone: Backbone, wrong: Preprocess) -> None:
    freeze(backbone, CPU, [view(backbone.preprocess)])
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        freeze(backbone, CPU, [view(backbone.preprocess), view(wrong)])


def test_receipt_after_the_evaluation_sees_a_single_bit(backbone: Backbone) -> None:
    frozen = freeze(backbone, CPU, [view(backbone.preprocess)])
    assert frozen.still_frozen().after == backbone.fingerprint
    running_mean = frozen.module.get_buffer("layer4.1.bn2.running_mean")
    running_mean[0] = torch.nextafter(running_mean[0], torch.tensor(9.0))
    with pytest.raises(CheckFailed, match="changed during the evaluation"):
        frozen.still_frozen()


def test_the_stride_sits_where_the_header_says() -> None:
    plain = random_backbone("resnet50", 0)
    caffe2 = replace(plain, stride_in_1x1=True)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for each in (plain, caffe2):
        frozen = freeze(each, CPU, [view(each.preprocess)])
        assert frozen.receipt.stride_in_1x1 == each.stride_in_1x1
        for stage in (2, 3, 4):
            block = frozen.module.get_submodule(f"layer{stage}.0")
            strides = [block.get_submodule(f"conv{i}").stride for i in (1, 2)]
            assert strides == ([(2, 2), (1, 1)] if each.stride_in_1x1 else [(1, 1), (2, 2)])
        with torch.no_grad():
            outputs.append(frozen.module(image))
    assert outputs[0].shape == outputs[1].shape
    assert not torch.allclose(outputs[0], outputs[1])


def test_receipt_refuses_another_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("resnet50", 0)
    model = replace(backbone, stride_in_1x1=True).module()
    monkeypatch.setattr(Backbone, "module", lambda _: model)
    with pytest.raises(CheckFailed, match="expected stride_in_1x1 False, found True"):
        freeze(backbone, CPU, [view(backbone.preprocess)])


def test_extract_gives_each_image_its_row(backbone: Backbone, data: LabelledImages) -> None:
    module, transform = backbone.module(), view(backbone.preprocess)
    found = compute(module, data.train, transform, batch_size=4, workers=0, label="features")
    with torch.no_grad():
        rows = [module(transform(load_image(path))[None])[0].numpy() for path, _ in data.train]
    assert found.values.shape == (9, 512)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, np.stack(rows), rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == [label for _, label in data.train]


@forks
def test_workers_change_nothing(backbone: Backbone, data: LabelledImages) -> None:
    module, transform = backbone.module(), view(backbone.preprocess)
    alone, helped = (
        compute(module, data.train, transform, batch_size=4, workers=workers, label="features") for workers in (0, 2)
    )
    assert np.array_equal(alone.values, helped.values)
    assert np.array_equal(alone.labels, helped.labels)


class _NotANumber(nn.Module):
    """NaN for the images whose first value is the largest seen so far."""

    def __init__(self, bad: Tensor) -> None:
        super().__init__()
        self.bad = nn.Parameter(bad, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)[:, :4].clone()
        features[(images == self.bad).flatten(1).all(dim=1)] = torch.nan
        return features


def test_a_feature_that_is_no_number_names_its_image(data: LabelledImages) -> None:
    transform = view(Preprocess())
    bad = data.train[5].path
    module = _NotANumber(transform(load_image(bad)))
    with pytest.raises(CheckFailed, match=rf"{bad.parent.name}/{bad.name} holds NaN"):
        compute(module, data.train, transform, batch_size=2, workers=0, label="features")


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_names_its_path(backbone: Backbone, tmp_path: Path, workers: int) -> None:
    root = image_folders.make(tmp_path, train=2, val=1)
    damaged = root / "train" / "green" / "01.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    data = image_folder.read(root)
    with pytest.raises(UserError, match=r"green/01\.png: expected an image that can be decoded.*; repair or remove it"):
        compute(
            backbone.module(), data.train, view(backbone.preprocess), batch_size=2, workers=workers, label="features"
        )


def drawn(data: LabelledImages, workers: int, epochs: int) -> Iterator[Tensor]:
    transform = random_view(Preprocess(), crop=16, scale=(0.2, 1.0), interpolation="bilinear")
    batches = Batches(Images(data.train, transform, seed=(7,)), batch_size=4, workers=workers)
    for epoch in range(epochs):
        yield torch.cat([images for images, _ in batches(epoch, range(len(data.train)))])


@forks
def test_random_draws_depend_on_seed_epoch_and_index_alone(data: LabelledImages) -> None:
    state = torch.random.get_rng_state()
    alone, helped = list(drawn(data, 0, 2)), list(drawn(data, 2, 2))
    for ours, theirs in zip(alone, helped, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(torch.random.get_rng_state(), state)
