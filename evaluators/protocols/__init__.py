"""All protocols, by id."""

from __future__ import annotations

from evaluators.protocol import Protocol
from evaluators.protocols import detection, fewshot, finetune, knn, linear, logistic, segmentation, svm

CATALOGUE: dict[str, Protocol] = {
    protocol.id: protocol
    for task in (knn, linear, logistic, svm, finetune, fewshot, detection, segmentation)
    for protocol in task.PROTOCOLS
}
