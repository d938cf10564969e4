"""Files, URLs and cameras as planar YUV with their own time; packets as MP4 fragments, and clips
of these.
"""

from framegate.stages.decode.stage import Decode

__all__ = ["Decode"]
