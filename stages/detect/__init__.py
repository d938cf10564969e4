"""Detection: where to look, one look, the estimate after it; the model of each source."""

from framegate.stages.detect.stage import Detect

__all__ = ["Detect"]
