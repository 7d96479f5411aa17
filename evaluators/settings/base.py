"""What the settings of several tasks have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from converters.settings import Settings


def _shares(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError(f"expected two shares of the image's area, 0 < smallest <= largest <= 1, found {list(value)}")
    return value


CropScale = Annotated[tuple[float, float], AfterValidator(_shares)]
"""Area range of a random resized crop, as shares of the image."""


class FeatureSettings(Settings):
    """How an image becomes a frozen feature: shorter side to `resize`, centre crop, backbone."""

    adjustable: ClassVar[frozenset[str]] = frozenset({"workers"})
    """Settings that change no number: to set them does not make a result *modified*."""

    resize: int = Field(gt=0)
    """The shorter side after resizing, pixels; see `geometry`."""
    crop: int = Field(gt=0)
    """The side of what the backbone sees, pixels."""
    geometry: Literal["crop", "squash", "squash-crop"] = "crop"
    """How an image of any shape becomes a square: shorter side to `resize` and a centre crop of `crop`; shorter side to
    `resize`, then all of it to `crop`×`crop`; all of it to `resize`×`resize`, then a centre crop of `crop`."""
    interpolation: Literal["bicubic", "bilinear"]
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which the frozen backbone computes; features are kept in float32."""
    batch_size: int = Field(default=128, gt=0)
    """Images that go through the backbone at a time: at most as many as are kept together, 512 or, of few images, a
    quarter of a process's share."""
    workers: int = Field(default=4, ge=0)
    """Processes that decode images."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            # A centre crop larger than the resized image would be padded with black.
            raise ValueError(f"crop {self.crop} must not exceed resize {self.resize}")
        return self
