"""Files, URLs and cameras as planar YUV with their own times; packets as MP4 fragments; clips."""

from framegate.stages.decode.stage import Decode

__all__ = ["Decode"]
