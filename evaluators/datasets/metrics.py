"""The metric that a data set is reported with, by the layouts that tell which data set it is.

As linusericsson/ssl-transfer@416913f has it. An image folder may be any data set: it is not here.
"""

from __future__ import annotations

METRICS = {
    "cifar-10": "top1",
    "cifar-100": "top1",
    "dtd": "top1",
    "fgvc-aircraft": "mean_per_class",
    "flowers-102": "mean_per_class",
    "food-101": "top1",
    "oxford-iiit-pet": "mean_per_class",
    "stanford-cars": "top1",
}
