"""What each task can be told, one file a task. Pure data: no torch, no framework."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from evaluators.settings.detection import DetectionSettings
from evaluators.settings.fewshot import FewshotSettings
from evaluators.settings.finetune import FinetuneSettings
from evaluators.settings.knn import KnnSettings
from evaluators.settings.linear import LinearSettings, MultiheadSettings
from evaluators.settings.logistic import CachedSettings, ManyshotSettings
from evaluators.settings.segmentation import SegmentationSettings
from evaluators.settings.svm import SvmSettings

TaskSettings = Annotated[
    KnnSettings
    | LinearSettings
    | MultiheadSettings
    | CachedSettings
    | ManyshotSettings
    | SvmSettings
    | FinetuneSettings
    | FewshotSettings
    | DetectionSettings
    | SegmentationSettings,
    Field(discriminator="task"),
]
