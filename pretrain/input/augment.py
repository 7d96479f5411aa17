"""The augmentations of MoCo v1 and v2, in the order of facebookresearch/moco@7397dfe, `main_moco.py`.

Every draw comes from (seed, epoch, index, view), not from a generator of the process, so that neither the number of
workers nor a resume changes an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from converters.metadata import IMAGENET_MEAN, IMAGENET_STD
from pretrain.input.batched import CropViews, Finish
from pretrain.input.draws import stream
from pretrain.recipes import Recipe

ViewMaker = Callable[[Image.Image, int, int], tuple[Tensor, ...]]
"""(image as `Image.open` gave it, epoch, number) -> tensors of one image; runs in the loading process."""

Finisher = Callable[[tuple[Tensor, ...], torch.device], tuple[Tensor, Tensor]]
"""(stacked tensors in host memory, device) -> im_q and im_k there, each N×3×S×S float32, normalised."""


def view_maker(recipe: Recipe, seed: int) -> ViewMaker:
    """What the loading process does with an image.

    It decodes the image, so it raises whatever Pillow's decoders raise for a damaged file, which is nearly anything.
    """
    if recipe.pipeline == "torchvision":
        return TwoViews(recipe, seed)
    return CropViews(recipe, seed)


def finisher(recipe: Recipe) -> Finisher:
    """What the training process does with a batch of the view maker's tensors.

    It copies without waiting where the tensors are pinned, and never makes the host wait for the device.
    """
    if recipe.pipeline == "torchvision":
        return moved
    return Finish(recipe)


def moved(views: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The views of the torchvision pipeline are finished: they are only copied to the device."""
    im_q, im_k = (view.to(device, non_blocking=True) for view in views)
    return im_q, im_k


class GaussianBlur:
    """PIL's blur with a radius drawn evenly from a range (SimCLR's augmentation)."""

    def __init__(self, radius: tuple[float, float]) -> None:
        self.radius = radius

    def __call__(self, image: Image.Image) -> Image.Image:
        """A blurred copy."""
        radius = torch.empty(1).uniform_(*self.radius).item()
        return image.filter(ImageFilter.GaussianBlur(radius))


def transform(recipe: Recipe) -> transforms.Compose:
    """PIL RGB image -> 3×S×S, normalised by ImageNet's mean and standard deviation."""
    crop = transforms.RandomResizedCrop(recipe.image_size, scale=recipe.crop_scale)
    grey, flip = transforms.RandomGrayscale(p=0.2), transforms.RandomHorizontalFlip()
    tensor = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    if recipe.augmentation == "v1":
        return transforms.Compose([crop, grey, transforms.ColorJitter(0.4, 0.4, 0.4, 0.4), flip, *tensor])
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    blur = transforms.RandomApply([GaussianBlur(recipe.blur_radius)], p=0.5)
    return transforms.Compose([crop, jitter, grey, blur, flip, *tensor])


class TwoViews:
    """Two independent augmentations of an image: query and key."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.transform = transform(recipe)
        self.seed = seed

    def __call__(self, image: Image.Image, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """The views of image number `index` in `epoch`, each 3×S×S."""
        image = image.convert("RGB")
        return self._view(image, epoch, index, 0), self._view(image, epoch, index, 1)

    def _view(self, image: Image.Image, epoch: int, index: int, view: int) -> Tensor:
        # torchvision's transforms draw from the global generator: it is lent to them and put back.
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(stream(self.seed, epoch, index, view))
            result: Tensor = self.transform(image)
        return result
