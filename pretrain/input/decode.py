"""From an encoded image to crops of the right size, decoding no more than they need.

A JPEG's 8×8 blocks can be decoded at 1/2, 1/4 or 1/8 of their size, straight from their DCT coefficients (libjpeg's
scaled inverse DCT), which saves most of what follows the entropy decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from pretrain.input.draws import Crop

Pixels = npt.NDArray[np.uint8]
"""H×W×3, RGB."""


def shrink(crops: Sequence[Crop], size: int) -> int:
    """The largest of 8, 4, 2, 1 by which an image can be divided so that each crop keeps `size` pixels a side."""
    side = min(min(crop.width, crop.height) for crop in crops)
    return next((factor for factor in (8, 4, 2) if side >= factor * size), 1)


def decode(image: Image.Image, factor: int = 1) -> tuple[Pixels, int]:
    """Pixels as `convert("RGB")` gives them, for a JPEG decoded at 1/`factor` of its size.

    Args:
        image: as `Image.open` gave it; it is decoded here.
        factor: 1, 2, 4 or 8.

    Returns:
        The pixels, and the factor by which they are smaller than the image: 1 where it is no JPEG.

    Raises:
        Exception: whatever Pillow raises for a damaged file.
    """
    width = image.width
    if factor > 1 and isinstance(image, JpegImageFile):
        image.draft(None, (image.width // factor, image.height // factor))
    # A conversion to the same mode would be a copy.
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(rgb), factor if rgb.width < width else 1


def resized_crop(pixels: Pixels, crop: Crop, factor: int, size: int) -> Tensor:
    """A crop of the image that `pixels` show at 1/`factor`, antialiased bilinear.

    Edges fall on the nearest whole pixel of `pixels`: at a factor above 1 they are off by half of one at most.

    Returns:
        3×S×S uint8.
    """
    top, bottom = round(crop.top / factor), round((crop.top + crop.height) / factor)
    left, right = round(crop.left / factor), round((crop.left + crop.width) / factor)
    # The copy makes the rows adjacent, without which torch would take a slower path.
    part = torch.from_numpy(pixels[top:bottom, left:right].copy()).permute(2, 0, 1).unsqueeze(0)
    return F.interpolate(part, size=(size, size), mode="bilinear", antialias=True).squeeze(0)
