"""Detection: plan the parts of a frame to look at, run the network, and track the objects."""

from framegate.stages.detect.stage import Detect

__all__ = ["Detect"]
