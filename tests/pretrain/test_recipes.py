"""The declared recipes, the rule for the learning rate, and the schedule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import UserError
from pretrain.recipes import MOCO_V1, MOCO_V2, QUICKSTART_MOCO_V1, QUICKSTART_MOCO_V2, RECIPES, Recipe, find_recipe
from pretrain.schedule import learning_rate


@pytest.mark.parametrize(("v1", "v2"), [(MOCO_V1, MOCO_V2), (QUICKSTART_MOCO_V1, QUICKSTART_MOCO_V2)])
def test_v2_is_v1_with_exactly_four_fields_changed(v1: Recipe, v2: Recipe) -> None:
    old, new = v1.model_dump(), v2.model_dump()
    changed = {name: new[name] for name in new if new[name] != old[name] and name != "id"}
    assert changed == {"mlp": True, "temperature": 0.2, "augmentation": "v2", "schedule": "cosine"}


def test_moco_v1_is_the_references_default() -> None:
    """facebookresearch/moco@7397dfe, main_moco.py, its arguments."""
    recipe = MOCO_V1
    assert (recipe.arch, recipe.epochs, recipe.batch_size, recipe.lr) == ("resnet50", 200, 256, 0.03)
    assert (recipe.milestones, recipe.sgd_momentum, recipe.weight_decay) == ((120, 160), 0.9, 1e-4)
    assert (recipe.dim, recipe.queue_size, recipe.momentum, recipe.temperature) == (128, 65536, 0.999, 0.07)
    assert (recipe.image_size, recipe.crop_scale, recipe.blur_radius) == (224, (0.2, 1.0), (0.1, 2.0))


def test_each_recipe_is_found_by_its_id() -> None:
    assert all(find_recipe(recipe_id).id == recipe_id for recipe_id in RECIPES)
    with pytest.raises(UserError, match="did you mean 'moco-v2@1'"):
        find_recipe("moco-v2")


def test_an_override_marks_the_recipe_as_modified() -> None:
    recipe = MOCO_V2.overridden(("epochs=800", "crop_scale=[0.08, 1]"))
    assert (recipe.epochs, recipe.crop_scale, recipe.modified) == (800, (0.08, 1.0), True)
    assert recipe.overrides == ("epochs=800", "crop_scale=[0.08, 1]")
    assert not MOCO_V2.modified


@pytest.mark.parametrize("assignments", [("epochs=200",), ("workers=3", "keep_last=1"), ("lr=0.1", "lr=0.03")])
def test_an_override_that_changes_no_result_marks_nothing(assignments: tuple[str, ...]) -> None:
    recipe = MOCO_V2.overridden(assignments)
    assert (recipe.modified, recipe.overrides) == (False, ())
    both = MOCO_V2.overridden((*assignments, "mlp=false"))
    assert (both.modified, both.overrides) == (True, ("mlp=false",))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "did you mean 'epochs'"),
        ("epochs=0", "epochs"),
        ("crop_scale=[0.5, 3]", "at most 1"),
        ("crop_scale=[0.5, 0.1]", "the smaller first"),
        ("augmentation=v3", "augmentation"),
        ("id=other@1", "an id stands for its declared fields"),
        ("epochs", "KEY=VALUE"),
    ],
)
def test_a_wrong_override_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MOCO_V1.overridden((assignment,))


def test_how_a_run_is_carried_out_is_no_part_of_what_it_computes() -> None:
    other = MOCO_V1.overridden(("workers=7", "keep_last=5", "keep_every=1"))
    assert other.computation() == MOCO_V1.computation()
    assert MOCO_V1.overridden(("lr=0.1",)).computation() != MOCO_V1.computation()


@pytest.mark.parametrize(("batch_size", "lr"), [(128, 0.015), (256, 0.03), (512, 0.06), (4096, 0.48)])
def test_the_learning_rate_scales_with_the_global_batch(batch_size: int, lr: float) -> None:
    assert MOCO_V1.overridden((f"batch_size={batch_size}",)).base_lr == pytest.approx(lr)


def test_the_quickstart_runs_at_006_for_its_batch_of_64() -> None:
    assert (QUICKSTART_MOCO_V2.base_lr, QUICKSTART_MOCO_V2.batch_size) == (pytest.approx(0.06), 64)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.03), (119, 0.03), (120, 0.003), (159, 0.003), (160, 0.0003), (199, 0.0003)]
)
def test_step_schedule(epoch: int, lr: float) -> None:
    assert learning_rate(MOCO_V1, epoch) == pytest.approx(lr)


# cos(pi/4) = 0.7071068; the last epoch is not at 0: 0.015 (1 + cos(199 pi / 200)).
@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.03), (50, 0.0256066), (100, 0.015), (150, 0.0043934), (199, 1.8506e-6)]
)
def test_cosine_schedule_has_no_warm_up_and_does_not_end_at_zero(epoch: int, lr: float) -> None:
    assert learning_rate(MOCO_V2, epoch) == pytest.approx(lr, rel=1e-4)


def test_the_recipes_load_no_torch() -> None:
    code = "import sys, pretrain.recipes, pretrain.__main__; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
