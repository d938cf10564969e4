"""Decode files, URLs and cameras to planar YUV, and record their packets. Knows no other stage."""

from framegate.stages.decode.stage import Decode

__all__ = ["Decode"]
