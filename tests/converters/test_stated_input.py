"""What a file says of its own input and network is heeded, or reading fails and names it."""

from __future__ import annotations

import ast
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.errors import UserError
from converters.families import Reading, configuration, source
from converters.metadata import Preprocess
from converters.untrusted import CheckpointFile
from tests.layouts import State, body, linear, under

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MSRA = Preprocess(channel_order="BGR", mean=MEAN[::-1], std=(1.0, 1.0, 1.0), value_range=(0.0, 255.0))
R50 = body(5, "resnet50")


def read(tmp_path: Path, content: object, how: Reading | None = None) -> Any:
    """As if it had been loaded: a ResNet-50 is long to write."""
    digest = Future[str]()
    digest.set_result("")
    return source.of_content(CheckpointFile(tmp_path / "c.pth", content, digest), how or Reading())


def configured(state: State, **words: object) -> dict[str, Any]:
    text = "model = dict(data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb={order}), backbone=dict({rest}))"
    return {"state_dict": state, "meta": {"cfg": text.format(**({"rest": "style='pytorch'"} | words))}}


CLASSIFIER = under("backbone.", R50) | linear("head.fc")


@pytest.mark.parametrize("state", [CLASSIFIER, under("backbone.", R50), R50], ids=["classifier", "backbone", "bare"])
def test_a_file_that_says_caffe_is_read_so_where_no_family_does(tmp_path: Path, state: State) -> None:
    content = configured(state, mean=list(MEAN[::-1]), std=[1.0, 1.0, 1.0], order=False, rest="style='caffe'")
    backbone = read(tmp_path, content)
    assert (backbone.preprocess, backbone.stride_in_1x1) == (MSRA, True)


@pytest.mark.parametrize("style", ["style='caffe'", "style='pytorch'", ""])
def test_an_order_with_another_stride_than_its_own_is_not_guessed(tmp_path: Path, style: str) -> None:
    order = style == "style='caffe'"
    content = configured(CLASSIFIER, mean=list(MEAN), std=list(STD), order=order, rest=style)
    with pytest.raises(UserError, match=r"expected the input RGB.*, found another in the file's own words: .*--family"):
        read(tmp_path, content)
    assert read(tmp_path, content, Reading(family="openmmlab-bgr")).stride_in_1x1


def test_a_mean_and_std_in_a_configuration_are_carried(tmp_path: Path) -> None:
    state = under("backbone.", body(1)) | linear("decode_head.conv_seg")
    backbone = read(tmp_path, configured(state, mean=[0, 0, 0], std=(1, 1, 1), order=True))
    assert backbone.preprocess == Preprocess(mean=(0, 0, 0), std=(1, 1, 1), value_range=(0, 255))
    unit = configured(state, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], order=True)
    assert read(tmp_path, unit).preprocess == Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    usual = configured(state, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], order=True)
    assert read(tmp_path, usual).preprocess == Preprocess()
    two = configured(state, mean=[0, 0, 0], std=[1, 1, 1], order=True)
    two["meta"]["cfg"] += "\ntest = dict(mean=[1, 1, 1], std=[1, 1, 1])"
    with pytest.raises(UserError, match="expected one input normalisation, found several"):
        read(tmp_path, two)
    with pytest.raises(UserError, match="expected a finite mean and a std above 0"):
        read(tmp_path, configured(state, mean=[0, 0, 0], std=[0, 1, 1], order=True))


@pytest.mark.parametrize(
    ("mean", "std", "family", "expected"),
    [
        (MEAN, (1.0, 1.0, 1.0), "detectron2-rgb", ("RGB", MEAN, (1.0, 1.0, 1.0))),
        (MEAN[::-1], STD[::-1], "detectron2-bgr", ("BGR", MEAN[::-1], STD[::-1])),
    ],
)
def test_a_detectors_std_is_not_replaced_by_the_usual_one(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], family: str, expected: tuple[object, ...]
) -> None:
    from tests.converters.test_family_frameworks import _fpn_detector

    model = _fpn_detector(R50) | {"pixel_mean": torch.tensor(mean), "pixel_std": torch.tensor(std)}
    with pytest.raises(UserError, match=r"found another in the file's own words: mean .*, std .*--family"):
        read(tmp_path, {"model": model})
    preprocess = read(tmp_path, {"model": model}, Reading(family=family)).preprocess
    assert preprocess.channel_order == expected[0]
    assert preprocess.mean == pytest.approx(expected[1])
    assert preprocess.std == pytest.approx(expected[2])
    assert preprocess.value_range == (0, 255)


def test_a_data_preprocessor_among_the_weights_is_read(tmp_path: Path) -> None:
    buffers = {"data_preprocessor.mean": torch.tensor(MEAN[::-1]), "data_preprocessor.std": torch.ones(3)}
    backbone = read(tmp_path, {"state_dict": CLASSIFIER | buffers})
    assert (backbone.preprocess, backbone.stride_in_1x1) == (MSRA, True)
    buffers["data_preprocessor.mean"] = torch.zeros(3)
    with pytest.raises(UserError, match="in the file's own words: mean 0 0 0, std 1 1 1"):
        read(tmp_path, {"state_dict": CLASSIFIER | buffers})


@pytest.mark.parametrize("variance", [1.0, 1 - 1e-5])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_norms_without_statistics_leave_the_input_open(tmp_path: Path, prefix: str, variance: float) -> None:
    state = dict(R50)
    for name, value in R50.items():
        if "running_" in name:
            state[name] = torch.full_like(value, variance if name.endswith("var") else 0)
    content = {"state_dict": under(prefix, state)}
    rgb = "openmmlab-rgb" if prefix else "torchvision"
    with pytest.raises(UserError, match=f"Caffe2 .* or untrained ones .*choose with --family: {rgb} or openmmlab-bgr"):
        read(tmp_path, content)
    assert read(tmp_path, content, Reading(family=rgb)).preprocess == Preprocess()
    backbone = read(tmp_path, content, Reading(family="openmmlab-bgr"))
    assert (backbone.preprocess, backbone.stride_in_1x1, backbone.origin.prefix) == (MSRA, True, prefix)


def test_a_configuration_is_parsed_once_and_only_up_to_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    parse = ast.parse
    monkeypatch.setattr(configuration.ast, "parse", lambda text: texts.append(len(text)) or parse(text))
    text = "model = dict(bgr_to_rgb=True)\n"
    file = CheckpointFile(Path(__file__), configured(under("backbone.", body(1)), mean=None, std=None, order=True))
    source.of_content(file, Reading())
    assert len(texts) == 1
    assert configuration.parse(text).orders == {True}
    assert configuration.parse(text + "#" * configuration.MAX_TEXT).orders == set()
    assert len(texts) == 2
    for broken in ("dict(", "x = '\\d'; 1 is 1", "(" * 5000, "\0"):
        assert configuration.parse(broken).orders == set()


@pytest.mark.parametrize("said", ["resnetblur50", "resnet50_caffe", "wide_resnet50_2"])
def test_a_file_that_says_another_network_is_refused(tmp_path: Path, said: str) -> None:
    content = {"arch": said, "state_dict": R50}
    with pytest.raises(UserError, match=f"expected the file's arch to be resnet50, .*found '{said}'"):
        read(tmp_path, content)
    assert read(tmp_path, content, Reading(family="torchvision")).arch == "resnet50"


@pytest.mark.parametrize("said", ["resnet50", "ResNet-50", "resnet50.a1_in1k", "r50", "moco"])
def test_other_spellings_of_a_network_are_no_other_network(tmp_path: Path, said: str) -> None:
    assert read(tmp_path, {"arch": said, "state_dict": R50}).arch == "resnet50"


def test_a_head_below_the_encoders_prefix_is_left_out_by_declaring_it(tmp_path: Path) -> None:
    """sthalles/SimCLR@1848fc9, models/resnet_simclr.py."""
    state = under("backbone.", body(1) | linear("fc.0", "fc.2"))
    content = {"epoch": 100, "arch": "resnet18", "state_dict": state}
    with pytest.raises(UserError, match=r"'backbone\.fc\.0\.weight' and 3 more.*declare: --prefix backbone\.$") as told:
        read(tmp_path, content)
    assert "mmpretrain" not in str(told.value)
    assert read(tmp_path, content, Reading(prefix="backbone.")).origin.dropped == {"classifier or projection head": 4}


def test_names_of_strangers_cannot_steer_a_terminal_or_a_shell(tmp_path: Path) -> None:
    evil = "x; touch PWN #\x1b[31m\u202e."
    with pytest.raises(UserError) as told:
        read(tmp_path, under(evil, body(1)))
    message = str(told.value)
    assert message.isprintable()
    assert "--prefix 'x; touch PWN #\\x1b[31m\\u202e.'" in message
    long = {"y" * 900 + ".conv1.weight": torch.zeros(2), "z": torch.zeros(1)}
    with pytest.raises(UserError) as told:
        read(tmp_path, {"state_dict": under("backbone.", body(1)) | long})
    assert "y" * 200 not in str(told.value)


def test_a_lone_convolution_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stages layer1 to layer4, found no layer1, layer2, layer3, layer4$"):
        read(tmp_path, {"conv1.weight": torch.zeros(64, 3, 7, 7)})
