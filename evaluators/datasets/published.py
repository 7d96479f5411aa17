"""What the known data sets should hold. Numbers from their papers and pages; those of splits also from torchvision.

ImageNet: Russakovsky et al., IJCV 2015, table 2 (train: 732 to 1,300 images a class, val: 50). iNaturalist 2018: the
competition's page, visipedia/inat_comp. VOC: the devkits' pages, tables of statistics. COCO: cocodataset.org, 2017.
Cityscapes: Cordts et al., CVPR 2016, section 2.2. CIFAR: Krizhevsky, 2009. STL-10: Coates et al., AISTATS 2011. SVHN:
Netzer et al., 2011. DTD: Cimpoi et al., CVPR 2014. Flowers: Nilsback and Zisserman, 2008. Food: Bossard et al., ECCV
2014. Pets: Parkhi et al., CVPR 2012. Aircraft: Maji et al., arXiv:1306.5151. Cars: Krause et al., 2013.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Should:
    """What a data set should hold."""

    title: str
    layout: str
    """`classification`, or the layout of detection or segmentation: `voc`, `coco`, `cityscapes`."""
    images: dict[str, int]
    """Images a split."""
    classes: int
    per_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Least and most images of a class, a split, where the data set declares them."""
    class_names: str = ""
    """A regular expression that every class name matches, where names matter for the order of classes."""


def _classification(title: str, classes: int, train: int, val: int, **more: object) -> Should:
    return Should(title, "classification", {"train": train, "val": val}, classes, **more)  # type: ignore[arg-type]


def _balanced(title: str, classes: int, train: int, val: int) -> Should:
    """Each class has as many images as any other."""
    each = {"train": (train // classes,) * 2, "val": (val // classes,) * 2}
    return _classification(title, classes, train, val, per_class=each)


SHOULD: dict[str, Should] = {
    "imagenet": _classification(
        "ImageNet-1k (ILSVRC 2012)",
        1000,
        1_281_167,
        50_000,
        per_class={"train": (732, 1300), "val": (50, 50)},
        class_names=r"n\d{8}",
    ),
    "inat18": _classification("iNaturalist 2018", 8142, 437_513, 24_426, per_class={"val": (3, 3)}),
    "cifar10": _balanced("CIFAR-10", 10, 50_000, 10_000),
    "cifar100": _balanced("CIFAR-100", 100, 50_000, 10_000),
    "stl10": _balanced("STL-10", 10, 5000, 8000),
    "svhn": _classification("SVHN, cropped digits", 10, 73_257, 26_032),
    "dtd": _balanced("Describable Textures, first partition", 47, 3760, 1880),
    "flowers102": _classification("Oxford Flowers 102", 102, 2040, 6149, per_class={"train": (20, 20)}),
    "food101": _balanced("Food-101", 101, 75_750, 25_250),
    "pets": _classification("Oxford-IIIT Pets", 37, 3680, 3669),
    "aircraft": _classification("FGVC Aircraft, variants", 100, 6667, 3333),
    "cars": _classification("Stanford Cars", 196, 8144, 8041),
    "voc07": Should("PASCAL VOC 2007", "voc", {"2007_trainval": 5011, "2007_test": 4952}, 20),
    "voc12": Should("PASCAL VOC 2012", "voc", {"2012_trainval": 11_540}, 20),
    "cityscapes": Should("Cityscapes, fine annotations", "cityscapes", {"train": 2975, "val": 500}, 19),
    "coco": Should("COCO 2017", "coco", {"train2017": 118_287, "val2017": 5000}, 80),
}
"""By the name that `moco-transfer data verify` takes."""
FOLDER = "folder"
"""The name for a data set of the user's own, in any layout for classification: nothing is known of its numbers."""
