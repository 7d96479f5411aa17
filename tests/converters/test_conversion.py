"""Conversions through the real frameworks, built from the written files."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters import (
    certificate,
    conversion,
    families,
    keymap,
    parity,
    to_detectron2,
    to_openmmlab,
    to_timm,
    to_torchvision,
)
from converters.backbone import Backbone
from converters.certificate import Target
from converters.errors import CheckFailed, UserError
from converters.hashing import sha256_of
from converters.metadata import Preprocess
from converters.receipt import detectron2_receipt, openmmlab_receipt
from tests import checkpoints
from tests.reference.detectron2_renames import renamed

FRAMEWORKS: tuple[Target, ...] = ("torchvision", "timm", "detectron2", "mmseg", "mmdet", "mmpretrain")
TARGETS: tuple[Target, ...] = ("backbone", *FRAMEWORKS)
OPENMMLAB = ("mmseg", "mmdet", "mmpretrain")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = tmp_path_factory.mktemp("source") / "c.pth.tar"
    return families.read(checkpoints.write(path, checkpoints.moco()))


@pytest.fixture(scope="module")
def converted(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one for each target, in which lie `b.safetensors`, `b.pkl` or `b.pth` and what belongs to it."""
    folder = tmp_path_factory.mktemp("converted")
    for target in TARGETS:
        conversion.convert(backbone, target, folder / target / f"b{conversion.SUFFIXES[target]}")
    return folder


@pytest.mark.parametrize("target", FRAMEWORKS)
def test_the_certificate_proves_the_files_that_lie_beside_it(
    backbone: Backbone, converted: Path, target: Target
) -> None:
    weights = converted / target / f"b{conversion.SUFFIXES[target]}"
    paper = certificate.read(converted / target / f"{weights.name}.certificate.json")
    assert (paper.verdict, paper.fingerprint, paper.source) == ("proved", backbone.fingerprint, backbone.origin)
    assert paper.weights.sha256 == sha256_of(weights)
    assert paper.fragment is not None
    assert paper.fragment.sha256 == sha256_of(converted / target / paper.fragment.file)
    assert (paper.coverage.expected, paper.coverage.mapped, paper.coverage.loaded) == (120, 120, 120)
    assert paper.coverage.dropped == {"key encoder": 124, "projection head": 4, "queue": 2}
    assert paper.parity is not None
    assert [row.stage for row in paper.parity.stages] == ["stem", "res2", "res3", "res4", "res5"]
    assert all(row.relative <= 1e-5 and row.cosine > 0.999999 for row in paper.parity.stages)
    assert paper.parity.receipt.live == backbone.fingerprint
    assert paper.parity.receipt.framework == paper.parity.framework == target
    assert paper.parity.norm == ("BatchNorm2d" if target in ("torchvision", "timm") else "SyncBatchNorm")


def test_a_backbone_file_is_read_back_and_claims_no_parity(backbone: Backbone, converted: Path) -> None:
    paper = certificate.read(converted / "backbone" / "b.safetensors.certificate.json")
    assert (paper.verdict, paper.parity, paper.fragment) == ("read back", None, None)
    assert paper.why_no_parity == "a backbone file belongs to no framework"
    assert (paper.coverage.expected, paper.coverage.mapped, paper.coverage.loaded) == (120, 120, None)
    assert paper.weights.sha256 == sha256_of(converted / "backbone" / "b.safetensors")


@pytest.mark.parametrize("target", TARGETS)
def test_every_written_file_reads_back_as_the_same_backbone(
    backbone: Backbone, converted: Path, target: Target
) -> None:
    read = families.read(converted / target / f"b{conversion.SUFFIXES[target]}")
    assert read.metadata == backbone.metadata
    assert all(torch.equal(read.tensors[name], value) for name, value in backbone.tensors.items())


def test_the_pickle_is_what_detectron2_expects_and_needs_no_private_name_of_numpy(
    backbone: Backbone, converted: Path
) -> None:
    data = (converted / "detectron2" / "b.pkl").read_bytes()
    assert b"numpy._core" not in data
    assert b"numpy.core" not in data
    content = pickle.loads(data, encoding="latin1")
    assert content["__author__"] != "Caffe2"
    assert content["matching_heuristics"] is True
    assert content["model"].keys() == set(keymap.detectron2("resnet18").names.values())
    array = content["model"]["res2.0.conv1.norm.running_var"]
    assert isinstance(array, np.ndarray)
    assert array.flags.writeable
    np.testing.assert_array_equal(array, backbone.tensors["layer1.0.bn1.running_var"].numpy())
    assert content["model"]["stem.conv1.norm.num_batches_tracked"].shape == ()


def test_the_pickle_is_the_reference_converters_without_its_junk(tmp_path: Path) -> None:
    """facebookresearch/moco@7397dfe, detection/convert-pretrain-to-detectron2.py, which keeps the head as `stem.fc`."""
    state = checkpoints.moco("resnet50")["state_dict"]
    prefix = "module.encoder_q."
    theirs = {renamed(name.removeprefix(prefix)): v.numpy() for name, v in state.items() if name.startswith(prefix)}
    junk = {name for name in theirs if name.startswith("stem.fc.")}
    assert len(junk) == 4
    source = checkpoints.write(tmp_path / "c.pth.tar", {"arch": "resnet50", "state_dict": state})
    to_detectron2.write_weights(families.read(source), tmp_path / "b.pkl")
    mine = pickle.loads((tmp_path / "b.pkl").read_bytes())["model"]
    assert len(mine) == 318
    assert mine.keys() == theirs.keys() - junk
    for name, array in mine.items():
        assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
        assert array.tobytes() == theirs[name].tobytes()


@pytest.mark.parametrize(("head", "in_backbone", "in_head"), [("C4", 258, 60), ("FPN", 318, 0)])
def test_resnet50_loads_whole_into_a_detectron2_detector(
    tmp_path: Path, head: to_detectron2.Head, in_backbone: int, in_head: int
) -> None:
    from converters import detectron2_model

    resnet50 = families.random_backbone("resnet50", 0)
    files = conversion.outputs("detectron2", tmp_path / "r50.pkl")
    assert files.fragment is not None
    to_detectron2.write_fragment(resnet50.metadata, files.weights.name, files.fragment, head)
    to_detectron2.write_weights(resnet50, files.weights)
    model, cfg = detectron2_model.build(files.fragment, files.weights)
    live = model.state_dict()
    prefix = "backbone.bottom_up." if head == "FPN" else "backbone."
    names = {
        **{name: prefix + name for name in keymap.detectron2("resnet50").names.values()},
        **{
            name: f"roi_heads.{name}"
            for name in keymap.detectron2("resnet50").names.values()
            if head == "C4" and name.startswith("res5.")
        },
    }
    loaded = [
        names[theirs]
        for ours, theirs in keymap.detectron2("resnet50").names.items()
        if torch.equal(live[names[theirs]], resnet50.tensors[ours])
    ]
    assert sum(name.startswith("backbone.") for name in loaded) == in_backbone
    assert sum(name.startswith("roi_heads.res5.") for name in loaded) == in_head
    norms = [type(module).__name__ for name, module in model.backbone.named_modules() if name.endswith(".norm")]
    assert set(norms) == {"SyncBatchNorm"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert detectron2_receipt(model, cfg, resnet50.metadata).tensors == 265


def test_resnet50_has_parity_in_detectron2_c4(tmp_path: Path) -> None:
    paper = conversion.convert(families.random_backbone("resnet50", 0), "detectron2", tmp_path / "r50.pkl")
    assert paper.verdict == "proved"
    assert (paper.coverage.mapped, paper.coverage.loaded) == (318, 318)


def test_the_mmseg_fragment_turns_a_stock_model_into_one_that_holds_the_weights(
    backbone: Backbone, converted: Path, tmp_path: Path
) -> None:
    """The stock models have `ResNetV1c`, whose deep stem would take nothing, and `pretrained`."""
    from converters import mmseg_model

    (tmp_path / "stock.py").write_text(
        "model = dict(type='EncoderDecoder', pretrained='open-mmlab://resnet50_v1c', backbone=dict(type='ResNetV1c',"
        " depth=50, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1),"
        " norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False, style='pytorch', contract_dilation=True))"
    )
    mine = tmp_path / "mine.py"
    mine.write_text("_base_ = ['stock.py']\n" + (converted / "mmseg" / "b.py").read_text())
    model = mmseg_model.build(mine, converted / "mmseg" / "b.pth", "resnet18")
    assert openmmlab_receipt(model, backbone.metadata, loaded_order="BGR").live == backbone.fingerprint
    assert type(model.backbone).__name__ == "ResNet"
    layer4: Any = model.get_submodule("backbone.layer4.1.conv1")
    assert layer4.dilation == (4, 4)


def test_the_mmseg_fragment_is_plain_python(converted: Path) -> None:
    content = runpy.run_path(str(converted / "mmseg" / "b.py"))
    backbone, preprocessor = content["model"]["backbone"], content["model"]["data_preprocessor"]
    assert backbone["type"] == "ResNet"
    assert backbone["norm_cfg"] == {"type": "SyncBN", "requires_grad": True}
    assert (backbone["norm_eval"], backbone["frozen_stages"], backbone["style"]) == (False, -1, "pytorch")
    assert backbone["init_cfg"] == {"type": "Pretrained", "checkpoint": "b.pth"}
    assert preprocessor["mean"] == [123.675, 116.28, 103.53]
    assert preprocessor["std"] == [58.395, 57.12, 57.375]
    assert preprocessor["bgr_to_rgb"] is True


def flip_one_bit(tensor: torch.Tensor) -> None:
    """The lowest bit of one value."""
    with torch.no_grad():
        tensor.view(-1).view(torch.int32)[0] ^= 1


def test_the_detectron2_receipt_sees_weights_and_input_settings(backbone: Backbone, converted: Path) -> None:
    from converters import detectron2_model

    model, cfg = detectron2_model.build(converted / "detectron2" / "b.yaml", converted / "detectron2" / "b.pkl")
    metadata = backbone.metadata
    assert detectron2_receipt(model, cfg, metadata).live == metadata.fingerprint
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(CheckFailed, match="expected one channel order, found 'BGR' fed to a model made for 'RGB'"):
        detectron2_receipt(model, cfg, metadata)
    model.input_format = "BGR"  # type: ignore[assignment]
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        detectron2_receipt(model, cfg, metadata)
    cfg.INPUT.FORMAT = model.input_format = "RGB"  # type: ignore[assignment]
    model.get_buffer("pixel_mean").copy_(model.get_buffer("pixel_mean").flip(0))
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        detectron2_receipt(model, cfg, metadata)
    model.get_buffer("pixel_mean").copy_(model.get_buffer("pixel_mean").flip(0))
    flip_one_bit(model.state_dict()["backbone.bottom_up.res4.1.conv2.norm.running_mean"])
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        detectron2_receipt(model, cfg, metadata)


def test_the_openmmlab_receipt_sees_weights_and_input_settings(backbone: Backbone, converted: Path) -> None:
    from converters import mmseg_model

    model: Any = mmseg_model.build(converted / "mmseg" / "b.py", converted / "mmseg" / "b.pth", "resnet18")
    metadata = backbone.metadata
    model.data_preprocessor._channel_conversion = False
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        openmmlab_receipt(model, metadata, loaded_order="BGR")
    assert openmmlab_receipt(model, metadata, loaded_order="RGB").preprocess.channel_order == "RGB"
    model.data_preprocessor._channel_conversion = True
    model.data_preprocessor.std.fill_(1)
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        openmmlab_receipt(model, metadata, loaded_order="BGR")
    model.data_preprocessor._enable_normalize = False
    with pytest.raises(CheckFailed, match="has no mean and std"):
        openmmlab_receipt(model, metadata, loaded_order="BGR")


def test_a_caffe_style_resnet50_in_mmseg_is_seen() -> None:
    from mmengine.registry import DefaultScope

    from converters import mmseg_model

    resnet50 = families.random_backbone("resnet50", 0)
    settings = to_openmmlab.settings(resnet50.metadata, "")["model"]
    settings["backbone"] |= {"style": "caffe", "init_cfg": None}
    with parity.quiet(), DefaultScope.overwrite_default_scope("mmseg"):
        backbone = mmseg_model.MODELS.build(settings["backbone"])
        backbone.load_state_dict(dict(resnet50.tensors))
        model = torch.nn.Module()
        model.backbone = backbone
        model.data_preprocessor = mmseg_model.MODELS.build(settings["data_preprocessor"])
    with pytest.raises(CheckFailed, match="expected stride_in_1x1 False, found True"):
        openmmlab_receipt(model, resnet50.metadata, loaded_order="BGR")


def _swap_two(names: dict[str, str], a: str, b: str) -> dict[str, str]:
    return names | {a: names[b], b: names[a]}


@pytest.mark.parametrize("target", ["detectron2", "mmseg"])
def test_a_wrong_key_map_fails_and_leaves_nothing(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    """Two tensors of one shape change places in what is written: only the framework's own names tell."""
    right = getattr(keymap, target)

    def wrong(arch: str, place: keymap.Place = "bare") -> keymap.KeyMap:
        table = right(arch, place)
        if place != "bare":
            return table  # type: ignore[no-any-return]
        swapped = _swap_two(table.names, "layer1.0.conv1.weight", "layer1.1.conv2.weight")
        return dataclasses.replace(table, names=swapped)  # type: ignore[no-any-return]

    monkeypatch.setattr(keymap, target, wrong)
    with pytest.raises(CheckFailed, match="does not hold the backbone"):
        conversion.convert(backbone, target, tmp_path / f"b{conversion.SUFFIXES[target]}")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_or_swapped_channels_fail_parity(backbone: Backbone) -> None:
    image = parity.picture()
    reference = parity.torchvision_stages(backbone, image)
    assert len(parity.compare(reference, reference, "same")) == 5
    changed = {name: value.clone() for name, value in backbone.tensors.items()}
    changed["layer3.0.conv2.weight"] *= 1.001
    with pytest.raises(CheckFailed, match="res4 of the other model differs"):
        parity.compare(
            reference, parity.torchvision_stages(dataclasses.replace(backbone, tensors=changed), image), "other"
        )
    bgr = dataclasses.replace(backbone, preprocess=Preprocess(channel_order="BGR"))
    with pytest.raises(CheckFailed, match="stem of the bgr model differs"):
        parity.compare(reference, parity.torchvision_stages(bgr, image), "bgr")
    nan = {stage: value * float("nan") for stage, value in reference.items()}
    with pytest.raises(CheckFailed, match="stem of the nan model differs"):
        parity.compare(reference, nan, "nan")


def _swapped(target: Target, content: Any) -> Any:
    """The settings of a fragment, or its text, with another order of channels; timm's have another mean instead."""
    if target == "torchvision":
        return content.replace("        v2.ToDtype", "        lambda image: image.flip(0),\n        v2.ToDtype")
    if target == "timm":
        content["pretrained_cfg"]["mean"].reverse()
    elif target == "detectron2":
        content["INPUT"]["FORMAT"] = "BGR"
    else:
        content["data_preprocessor"]["to_rgb" if target == "mmpretrain" else "bgr_to_rgb"] = False
    return content


@pytest.mark.parametrize("target", FRAMEWORKS)
def test_a_fragment_with_swapped_channels_fails(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    name = "to_openmmlab" if target in OPENMMLAB else f"to_{target}"
    module = {"to_detectron2": to_detectron2, "to_openmmlab": to_openmmlab, "to_timm": to_timm}.get(
        name, to_torchvision
    )
    made = "fragment" if target == "torchvision" else "settings"
    right = getattr(module, made)
    monkeypatch.setattr(module, made, lambda *arguments: _swapped(target, right(*arguments)))
    with pytest.raises(CheckFailed, match="feeds the backbone other inputs"):
        conversion.convert(backbone, target, tmp_path / f"b{conversion.SUFFIXES[target]}")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def caffe() -> Backbone:
    """As Detectron's R-50 (MSRA): BGR on the scale of bytes, std 1, and the stride in the first 1x1 convolution."""
    preprocess = Preprocess(
        channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), value_range=(0.0, 255.0)
    )
    return dataclasses.replace(families.random_backbone("resnet50", 0), preprocess=preprocess, stride_in_1x1=True)


@pytest.mark.parametrize("target", [target for target in FRAMEWORKS if target != "timm"])
def test_weights_of_caffe_keep_parity(caffe: Backbone, tmp_path: Path, target: Target) -> None:
    """The fragments must say BGR, their mean, a std of 1, and where the stride is."""
    output = tmp_path / f"b{conversion.SUFFIXES[target]}"
    paper = conversion.convert(caffe, target, output)
    assert (paper.verdict, paper.coverage.mapped, paper.coverage.loaded) == ("proved", 318, 318)
    assert paper.parity is not None
    assert paper.parity.receipt.stride_in_1x1
    assert paper.parity.receipt.preprocess.channel_order == "BGR"
    assert families.read(output).metadata == caffe.metadata


def test_timm_cannot_feed_weights_of_caffe(caffe: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found weights that want BGR, and timm loads images as RGB"):
        conversion.convert(caffe, "timm", tmp_path / "b.safetensors")
    rgb = dataclasses.replace(caffe, preprocess=Preprocess())
    with pytest.raises(UserError, match="stride in the first 1x1 convolution, and timm's have it in the 3x3"):
        conversion.convert(rgb, "timm", tmp_path / "b.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [target for target in FRAMEWORKS if target != "torchvision"])
def test_without_the_framework_the_verdict_is_coverage_only(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == target else found(name))
    output = tmp_path / f"b{conversion.SUFFIXES[target]}"
    paper = conversion.convert(backbone, target, output)
    assert (paper.verdict, paper.parity, paper.why_no_parity) == ("coverage only", None, f"not installed: {target}")
    assert (paper.coverage.mapped, paper.coverage.loaded) == (120, None)
    assert families.read(output).fingerprint == backbone.fingerprint


def test_existing_files_are_kept_unless_forced(backbone: Backbone, tmp_path: Path) -> None:
    output = tmp_path / "b.safetensors"
    conversion.convert(backbone, "backbone", output)
    before = output.read_bytes()
    with pytest.raises(UserError, match="use --force"):
        conversion.convert(families.random_backbone("resnet18", 1), "backbone", output)
    assert output.read_bytes() == before
    conversion.convert(families.random_backbone("resnet18", 1), "backbone", output, force=True)
    assert output.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.safetensors", "b.safetensors.certificate.json"]


def test_wrong_outputs_and_heads_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in \.pkl for detectron2, found 'b\.pth'"):
        conversion.convert(backbone, "detectron2", tmp_path / "b.pth")
    with pytest.raises(UserError, match="use --head fpn"):
        conversion.convert(backbone, "detectron2", tmp_path / "b.pkl", head="C4")
    (tmp_path / "b.pth").mkdir()
    with pytest.raises(UserError, match="found a folder"):
        conversion.convert(backbone, "mmseg", tmp_path / "b.pth", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b.pth"]


class Payload:
    """Would make a file when unpickled by a reader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "b.pkl"
    path.write_bytes(pickle.dumps({"model": Payload(tmp_path / "harmed")}, protocol=4))
    with pytest.raises(UserError, match=r"found a pickled .*, which is not run"):
        families.read(path)
    assert not (tmp_path / "harmed").exists()


def test_a_changed_pickle_is_seen(converted: Path, tmp_path: Path) -> None:
    data = bytearray((converted / "detectron2" / "b.pkl").read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "b.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError, match="the file was changed after it was written"):
        families.read(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="expected a whole pickle, found a damaged one"):
        families.read(path)


@pytest.mark.parametrize("name", ["a\nopen('PWNED', 'w')\n#.pth", "a\u2028b.pth", "a\x1b[2J.pth"])
def test_a_name_that_would_end_a_comment_of_the_fragment_is_refused(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="expected a file name of printable characters"):
        conversion.convert(backbone, "mmseg", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_compute_nothing_prove_nothing(backbone: Backbone, tmp_path: Path) -> None:
    nothing = {name: torch.zeros_like(value) for name, value in backbone.tensors.items()}
    with pytest.raises(CheckFailed, match="every activation of stem is 0: weights that compute nothing prove nothing"):
        conversion.convert(dataclasses.replace(backbone, tensors=nothing), "torchvision", tmp_path / "b.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_variance_below_zero_is_no_weight(backbone: Backbone) -> None:
    wrong = dict(backbone.tensors) | {"layer2.0.bn1.running_var": torch.full((128,), -1.0)}
    with pytest.raises(UserError, match=r"expected variances of at least 0, found -1 in layer2\.0\.bn1\.running_var"):
        dataclasses.replace(backbone, tensors=wrong)
