"""The windows of tracked objects, the decision which are published, and their visits."""

from framegate.stages.windows.stage import Windows

__all__ = ["Windows"]
