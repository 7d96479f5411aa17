from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import keymap
from converters.architectures import ARCHITECTURES, expected_shapes
from converters.keymap import KeyMap
from tests.reference.detectron2_renames import renamed

ARCHS = sorted(ARCHITECTURES)
MAPS = {
    "torchvision": keymap.torchvision,
    "mmseg": keymap.mmseg,
    "mmseg live": lambda arch: keymap.mmseg(arch, "backbone"),
    "detectron2": keymap.detectron2,
    "detectron2 C4": lambda arch: keymap.detectron2(arch, "C4"),
    "detectron2 FPN": lambda arch: keymap.detectron2(arch, "FPN"),
}


@pytest.mark.parametrize("arch", ARCHS)
def test_file_names_for_detectron2_are_those_of_the_reference_converter(arch: str) -> None:
    names = keymap.detectron2(arch).names
    assert names == {name: renamed(name) for name in expected_shapes(arch)}


def test_resnet50_has_the_known_number_of_tensors_in_each_stage() -> None:
    names = keymap.detectron2("resnet50").names
    assert Counter(keymap.stage_of(name) for name in names) == {
        "stem": 6,
        "res2": 60,
        "res3": 78,
        "res4": 114,
        "res5": 60,
    }
    assert len(names) == 318
    assert sum(not name.endswith("num_batches_tracked") for name in names) == 265


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("target", sorted(MAPS))
def test_every_map_is_total_and_injective(arch: str, target: str) -> None:
    names = MAPS[target](arch).names
    assert names.keys() == expected_shapes(arch).keys()
    assert len(set(names.values())) == len(names)


@given(data=st.data(), arch=st.sampled_from(ARCHS), target=st.sampled_from(sorted(MAPS)))
def test_there_and_back_gives_the_same_tensors_in_the_same_order(data: st.DataObject, arch: str, target: str) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(expected_shapes(arch))), unique=True))
    tensors = {name: index for index, name in enumerate(names)}
    table = MAPS[target](arch)
    assert list(table.restore(table.rename(tensors)).items()) == list(tensors.items())


@given(arch=st.sampled_from(ARCHS), target=st.sampled_from(sorted(MAPS)), name=st.text())
def test_a_name_outside_the_table_is_an_error(arch: str, target: str, name: str) -> None:
    with pytest.raises(KeyError):
        MAPS[target](arch).rename({f"fc.{name}": 0})


def test_c4_keeps_res5_in_the_head_and_the_rest_in_the_backbone() -> None:
    names = keymap.detectron2("resnet50", "C4").names.values()
    assert sum(name.startswith("roi_heads.res5.") for name in names) == 60
    assert sum(name.startswith("backbone.") for name in names) == 258


@pytest.mark.parametrize("place", ["C4", "FPN", "backbone", "bare"])
def test_the_place_of_a_live_model_is_told_from_its_names(place: keymap.Place) -> None:
    live = dict.fromkeys(keymap.detectron2("resnet50", place).names.values(), 0)
    assert keymap.detectron2_place(live) == place
    assert keymap.detectron2_place({"backbone.conv1.weight": 0}) is None


def test_a_map_that_gives_two_tensors_one_name_is_refused() -> None:
    with pytest.raises(ValueError, match="two tensors one name"):
        KeyMap("x", {"a": "c", "b": "c"}, region="")
