"""The windows of tracked objects: what is known of each over the last seconds, and its visit."""

from framegate.stages.windows.stage import Windows

__all__ = ["Windows"]
