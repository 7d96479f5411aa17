"""Faster R-CNN in detectron2. Only `task` and what it imports load the framework."""
