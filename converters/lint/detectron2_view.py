"""What the rules look at in a detectron2 configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.lint.detectron2_defaults import DEFAULTS
from converters.lint.finding import Path as KeyPath
from converters.lint.finding import Text, shown
from converters.lint.values import sequence


class Detectron2Config:
    """The settings that a YAML makes, detectron2's defaults included."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        self.content, self.path = content, path

    def get(self, key: str) -> Any:
        """The value of a dotted key: the file's own, or detectron2's default."""
        node: Any = self.content
        for step in key.split("."):
            if not isinstance(node, dict) or step not in node:
                return DEFAULTS.get(key)
            node = node[step]
        return node

    def found(self, key: str) -> Any:
        """The same for a message, which says where a default speaks."""
        node: Any = self.content
        for step in key.split("."):
            node = node.get(step) if isinstance(node, dict) else None
        value = self.get(key)
        return value if node is not None or value is None else Text(f"{shown(value)} (detectron2's default)")

    def text(self, key: str) -> str:
        """A name; an empty one for anything else."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def names(self, key: str) -> list[str]:
        """The strings of a list."""
        return [item for item in sequence(self.get(key)) if isinstance(item, str)]

    @property
    def head(self) -> str:
        """C4 or FPN, by the backbone's builder; RetinaNet has its own head on an FPN."""
        if self.get("MODEL.META_ARCHITECTURE") == "RetinaNet":
            return "RetinaNet"
        return "FPN" if "fpn" in self.text("MODEL.BACKBONE.NAME") else "C4"


def key_path(key: str) -> KeyPath:
    """The path of a dotted key."""
    return tuple(key.split("."))
