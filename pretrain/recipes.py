"""The declared pretraining recipes. Pure data: no torch.

MoCo v1 is the default of the reference (facebookresearch/moco@7397dfe, `main_moco.py`); v2 is v1 with four fields
changed, the flags `--mlp --moco-t 0.2 --aug-plus --cos`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from converters.errors import UserError
from converters.settings import Settings, nearest, override

EXECUTION_FIELDS = frozenset(
    {"accumulate", "channels_last", "compile", "keep_every", "keep_last", "max_damaged", "save_steps", "workers"}
)
"""Fields that change how a run is carried out, not what it computes (but for rounding): a resume may change them."""


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise ValueError("give two numbers above 0, the smaller first")
    return values


def _shares(values: tuple[float, float]) -> tuple[float, float]:
    if values[1] > 1:
        raise ValueError("an area is at most 1, the whole image")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class Recipe(Settings):
    """Everything that decides a pretraining run, apart from images and seed."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*@[1-9][0-9]*$")
    arch: str = "resnet50"
    dim: int = Field(default=128, gt=0)
    """D of the embedding."""
    mechanism: Literal["queue", "memory-bank", "end-to-end"] = "queue"
    """Where the keys come from; `queue` is MoCo, the others are what He et al. 2020 compare it with (figure 2)."""
    queue_size: int = Field(default=65536, gt=0)
    """K, the number of negative keys; for `end-to-end` the batch decides it instead."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """m of the key encoder; for `memory-bank`, of the entries (Wu et al. 2018 use 0.5)."""
    temperature: float = Field(default=0.07, gt=0)
    """T of the logits."""
    mlp: bool = False
    """A hidden layer in the projection head."""
    augmentation: Literal["v1", "v2"] = "v1"
    """See `pretrain.input.augment`."""
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = (120, 160)
    """For `step`: epochs after which the learning rate falls."""
    lr_decay: float = Field(default=0.1, gt=0, le=1)
    """For `step`: what the learning rate is multiplied by at each of them."""
    epochs: int = Field(default=200, gt=0)
    batch_size: int = Field(default=256, gt=0)
    """Images of an optimizer step, over all processes and parts."""
    bn_groups: int = Field(default=8, gt=0)
    """Sub-batches of the step whose BN statistics are apart and whose keys are shuffled, over all processes.

    The papers' runs have 8, one a GPU (section 3.3, shuffle-BN). Any number of processes that divides it computes the
    same, one alone too.
    """
    lr: float = Field(default=0.03, gt=0)
    """Stated for 256 images a step; the run uses lr × batch_size / 256 (see `base_lr`)."""
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    """On every parameter, normalisation and biases included."""
    image_size: int = Field(default=224, gt=0)
    """The side of the crop, pixels."""
    crop_scale: Annotated[Range, AfterValidator(_shares)] = (0.2, 1.0)
    """Area range of the random resized crop."""
    blur_radius: Range = (0.1, 2.0)
    """For augmentation v2: range of the Gaussian's standard deviation, pixels."""
    pipeline: Literal["torchvision", "batched"] = "torchvision"
    """`torchvision`: PIL, image by image, as the reference; `batched`: decoded small, augmented on the device."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the encoders' arithmetic (autocast); weights, loss, queue and key encoder stay in fp32."""
    epoch_images: int | None = Field(default=None, gt=0)
    """Images that count as an epoch; None: all there are. Shards that do not say how many they hold need it."""
    accumulate: int = Field(default=1, gt=0)
    """Parts in which a process computes its share of the step, one after the other, to save memory."""
    channels_last: bool = False
    """Memory format of the encoders."""
    compile: bool = False
    """Encoders through torch.compile; needs a C++ compiler on a CPU."""
    max_damaged: float = Field(default=0.001, ge=0, le=1)
    """A damaged image is skipped, counted and listed; more than this share of an epoch's images stops the run."""
    save_steps: int = Field(default=0, ge=0)
    """Every so many steps of an epoch a checkpoint is written too; 0 for at its end alone."""
    workers: int | None = Field(default=None, ge=0)
    """Loading processes of each training process; None: none on a CPU, up to 16 beside a GPU. For files it
    changes no result; for shards it decides their order, and an epoch cannot go on in its middle with another."""
    keep_last: int = Field(default=2, gt=0)
    """How many of the newest checkpoints are kept."""
    keep_every: int = Field(default=50, ge=0)
    """Every so many epochs the checkpoint is kept for good; 0 for never."""
    overrides: tuple[str, ...] = ()
    """Dotted assignments by which the result differs from the declared recipe's, one a field."""

    @property
    def base_lr(self) -> float:
        """The learning rate at this batch size, before the schedule: the linear rule (Goyal et al. 2017, 2.1)."""
        return self.lr * self.batch_size / 256

    @property
    def modified(self) -> bool:
        """True when a field that decides the result differs from the declared recipe."""
        declared = RECIPES.get(self.id)
        return bool(self.overrides) if declared is None else self.computation() != declared.computation()

    @property
    def method(self) -> str:
        """`MoCo v1` or `MoCo v2`, by the head, as published checkpoints are told apart; or the other mechanism."""
        if self.mechanism != "queue":
            return self.mechanism
        return "MoCo v2" if self.mlp else "MoCo v1"

    def overridden(self, assignments: tuple[str, ...]) -> Self:
        """This recipe with dotted assignments such as `epochs=2`.

        Raises:
            UserError: for an unknown field, a wrong value, or an attempt to change the id.
        """
        if not assignments:
            return self
        for assignment in assignments:
            if assignment.partition("=")[0] in ("id", "overrides"):
                raise UserError(
                    expected="a field that may be changed",
                    found=assignment,
                    where="--set",
                    cure="an id stands for its declared fields",
                )
        changed = override(self, assignments)
        latest = {text.partition("=")[0]: text for text in (*self.overrides, *assignments)}
        declared = RECIPES[self.id].computation() if self.id in RECIPES else {}
        result = changed.computation()
        telling = tuple(text for key, text in latest.items() if key in result and result[key] != declared.get(key))
        return changed.model_copy(update={"overrides": telling})

    def computation(self) -> dict[str, Any]:
        """The fields that decide the result, as plain values."""
        return self.model_dump(mode="json", exclude=set(EXECUTION_FIELDS) | {"overrides"})


def _variant(recipe: Recipe, recipe_id: str, **changes: object) -> Recipe:
    """A declared delta, validated."""
    return Recipe.model_validate({**recipe.model_dump(), "id": recipe_id, **changes})


V2_CHANGES: dict[str, object] = {"mlp": True, "temperature": 0.2, "augmentation": "v2", "schedule": "cosine"}
"""All that makes MoCo v1 into v2 (Chen et al. 2020, Table 1; `--mlp --moco-t 0.2 --aug-plus --cos`)."""

MOCO_V1 = Recipe(id="moco-v1@1")
MOCO_V2 = _variant(MOCO_V1, "moco-v2@1", **V2_CHANGES)

# A billion uncurated images on 64 GPUs (He et al. 2020, section 4, training): 1.25 M steps of 1024; the learning rate
# of 0.12 falls to nine tenths every 62,500 steps, here called an epoch of 64 M images.
MOCO_V1_IG1B = _variant(
    MOCO_V1,
    "moco-v1-ig1b@1",
    batch_size=1024,
    bn_groups=64,
    epoch_images=64_000_000,
    epochs=20,
    milestones=tuple(range(1, 20)),
    lr_decay=0.9,
    save_steps=2_500,
)

# For the generated sample data on a CPU: small images, a queue of about one data set, a faster key encoder.
QUICKSTART_MOCO_V1 = _variant(
    MOCO_V1,
    "quickstart-moco-v1@1",
    arch="resnet18",
    image_size=32,
    blur_radius=(0.1, 1.0),
    queue_size=4096,
    momentum=0.99,
    batch_size=64,
    lr=0.24,
    epochs=10,
    milestones=(7, 9),
    bn_groups=1,
)
QUICKSTART_MOCO_V2 = _variant(QUICKSTART_MOCO_V1, "quickstart-moco-v2@1", **V2_CHANGES)

RECIPES: dict[str, Recipe] = {
    recipe.id: recipe for recipe in (MOCO_V1, MOCO_V2, MOCO_V1_IG1B, QUICKSTART_MOCO_V1, QUICKSTART_MOCO_V2)
}


def find_recipe(recipe_id: str) -> Recipe:
    """The recipe with this id.

    Raises:
        UserError: for an unknown id, with the nearest one.
    """
    if recipe_id not in RECIPES:
        raise UserError(expected="the id of a recipe", found=repr(recipe_id), cure=nearest(recipe_id, RECIPES))
    return RECIPES[recipe_id]
