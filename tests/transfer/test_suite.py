"""The suite file: what is refused, and where data sets are found."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from converters.errors import UserError
from pretrain.recipes import MOCO_V2, Recipe, find_recipe
from transfer.cells import steps
from transfer.suite import Suite, built_in, load_suite, locate_data, sample_folder

MINIMAL: dict[str, Any] = {
    "name": "mine",
    "data": {"imagenet": None},
    "backbones": {"random": {"init": "random", "arch": "resnet18"}},
    "protocols": [{"protocol": "knn-dino@1", "data": "imagenet"}],
}


def write(folder: Path, **changes: object) -> str:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return str(path)


def test_every_built_in_suite_is_valid() -> None:
    assert "quickstart" in built_in()
    for name in built_in():
        assert load_suite(name).name == name


def test_the_shipped_schema_is_the_models_own() -> None:
    shipped = json.loads((resources.files("transfer") / "suites" / "suite.schema.json").read_text())
    assert shipped == Suite.model_json_schema(), "write it anew with: python -m transfer.suite"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocls": []}, "did you mean 'protocols'?"),
        ({"baseline": "randm"}, "did you mean 'random'?"),
        ({"protocols": [{"protocol": "knn-dino@1", "data": "imagenett"}]}, "did you mean 'imagenet'?"),
        ({"backbones": {"random": {"init": "random", "archh": "resnet18"}}}, "did you mean 'arch'?"),
        ({"backbones": {"x": {"init": "random", "arch": "resnet18", "file": "a.pth"}}}, "exactly one of"),
        ({"backbones": {"x": {"recipe": "moco-v1@1"}}}, "recipe needs data"),
        ({"backbones": {"x": {"file": "a.pth", "arch": "resnet18"}}}, "arch has no meaning beside file"),
        ({"backbones": {"x": {"init": "random", "arch": "resnet18", "encoder": "k"}}}, "encoder has no meaning beside"),
        ({"backbones": {"x": {"recipe": "moco-v1@1", "data": "imagenet", "prefix": ""}}}, "prefix has no meaning"),
        ({"backbones": {"x": {"file": "a.pth", "encoder": "m"}}}, "'q' or 'k'"),
        ({"data": {"imagenet": "sample:vocc"}}, "did you mean 'voc'?"),
        ({"backbones": {}}, "at least 1"),
        ({"name": "../up"}, "name"),
        ({"trial_seeds": [0, 0]}, "trial_seeds holds an entry twice"),
        ({"trial_seeds": [-1]}, "greater than or equal to 0"),
        ({"protocols": 2 * MINIMAL["protocols"]}, "protocols holds an entry twice"),
        ({"sample_data": {"size": "smal"}}, "did you mean 'small'?"),
    ],
)
def test_a_faulty_suite_is_one_line_that_names_file_and_cure(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_suite(path)
    line = str(caught.value)
    assert "suite.yaml" in line
    assert told in line
    assert "\n" not in line


def test_an_unknown_name_gives_the_nearest_suite() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_suite("quickstrat")


def test_settings_change_from_the_command_line(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path), ["trial_seeds=[0, 1, 2]"])
    assert suite.trial_seeds == (0, 1, 2)
    with pytest.raises(UserError, match="did you mean 'trial_seeds'"):
        load_suite(write(tmp_path), ["trial_seed=[0]"])


def test_data_comes_from_the_option_then_the_environment_then_the_suite(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("suite", "environment", "option")}
    for folder in folders.values():
        folder.mkdir()
    suite = load_suite(write(tmp_path, data={"imagenet": str(folders["suite"])}))
    variables = {"MOCO_TRANSFER_DATA_IMAGENET": str(folders["environment"])}
    option = [f"imagenet={folders['option']}"]
    run = tmp_path / "run"
    assert locate_data(suite, [], run, {}) == {"imagenet": folders["suite"]}
    assert locate_data(suite, [], run, variables) == {"imagenet": folders["environment"]}
    assert locate_data(suite, option, run, variables) == {"imagenet": folders["option"]}


def test_data_that_cannot_be_found_says_how_to_give_it(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path))
    with pytest.raises(UserError, match="MOCO_TRANSFER_DATA_IMAGENET"):
        locate_data(suite, [], tmp_path, {})
    with pytest.raises(UserError, match="did you mean 'imagenet'"):
        locate_data(suite, ["imagent=/x"], tmp_path, {})
    with pytest.raises(UserError, match="NAME=DIR"):
        locate_data(suite, ["imagenet"], tmp_path, {})
    with pytest.raises(UserError, match="absent"):
        locate_data(suite, [f"imagenet={tmp_path / 'absent'}"], tmp_path, {})


def test_generated_data_lies_in_the_runs_folder(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, data={"imagenet": "sample:images"}))
    folder = sample_folder(suite, tmp_path)
    assert tmp_path in folder.parents
    assert locate_data(suite, [], tmp_path, {}) == {"imagenet": folder / "images"}


@pytest.mark.parametrize("change", ["sample_data.seed=7", "sample_data.size=tiny"])
def test_other_sample_data_lies_in_another_folder(tmp_path: Path, change: str) -> None:
    path = write(tmp_path, data={"imagenet": "sample:images"})
    assert sample_folder(load_suite(path), tmp_path) != sample_folder(load_suite(path, [change]), tmp_path)


PAPERS = ("moco-v1-mechanisms", "moco-v1-momentum", "moco-v2-ablation")


def recipes(name: str) -> dict[str, Recipe]:
    suite = load_suite(name)
    return {
        row: find_recipe(entry.recipe).overridden(entry.set)
        for row, entry in suite.backbones.items()
        if entry.recipe is not None
    }


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_suite_has_a_sample_of_the_same_layout(name: str) -> None:
    full, sample = recipes(name), recipes(f"{name}-sample")
    assert len(full) == len(sample) == len(load_suite(name).backbones)
    for (row, recipe), (small_row, small) in zip(full.items(), sample.items(), strict=True):
        told = ("mechanism", "mlp", "augmentation", "schedule", "temperature")
        assert {field: getattr(recipe, field) for field in told} == {field: getattr(small, field) for field in told}
        assert row.split(",")[0].split(" K")[0] == small_row.split(",")[0].split(" K")[0]
        assert small.epochs <= 4
        # What cannot be trained as declared would be told only when it is started.
        for one in (recipe, small):
            assert one.batch_size % one.bn_groups == 0
            assert one.mechanism != "queue" or one.queue_size % one.batch_size == 0


def test_the_mechanisms_are_those_of_figure_3() -> None:
    rows = recipes("moco-v1-mechanisms")
    for mechanism, name in (("memory-bank", "memory bank"), ("queue", "MoCo")):
        sizes = {row: recipe.queue_size for row, recipe in rows.items() if recipe.mechanism == mechanism}
        assert sizes == {f"{name}, K {K}": K for K in (256, 512, 1024, 4096, 16384, 65536)}
    batches = [recipe.batch_size for recipe in rows.values() if recipe.mechanism == "end-to-end"]
    assert batches == [256, 512, 1024]
    # The linear rule for the larger batches (section 4.1 refers to Goyal et al. 2017).
    assert rows["end-to-end, batch 1024"].base_lr == pytest.approx(0.12)
    assert not rows["MoCo, K 65536"].modified


def test_the_momenta_are_those_of_the_ablation() -> None:
    rows = recipes("moco-v1-momentum")
    assert [(recipe.momentum, recipe.queue_size) for recipe in rows.values()] == [
        (m, 4096) for m in (0, 0.9, 0.99, 0.999, 0.9999)
    ]


def test_the_ablation_ends_in_moco_v2() -> None:
    rows = recipes("moco-v2-ablation")
    last, long = rows["d MLP, aug+, cos"].computation(), rows["e MLP, aug+, cos, 800 epochs"].computation()
    assert {**last, "id": ""} == {**MOCO_V2.computation(), "id": ""}
    assert long == {**last, "epochs": 800}
    temperatures = [recipe.temperature for row, recipe in rows.items() if row.startswith(("a MLP", "MLP, T"))]
    assert sorted(temperatures) == [0.07, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_file_that_is_read_in_another_way_is_another_backbone(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(b"weights")
    file = str(tmp_path / "c.pth")
    ways = [{}, {"encoder": "k"}, {"family": "moco"}, {"prefix": "module.pre."}]
    outputs = []
    for way in ways:
        suite = load_suite(write(tmp_path, backbones={"x": {"file": file, **way}}))
        (tmp_path / "images").mkdir(exist_ok=True)
        planned = steps(suite, dict.fromkeys(suite.data, tmp_path / "images"), tmp_path / "run")
        resolved = next(step for step in planned if step.kind == "backbone").resolver()
        outputs.append(resolved.output)
        for name, value in way.items():
            assert f"--{name} {value}" in " ".join(resolved.arguments)
    assert len(set(outputs)) == len(ways)
