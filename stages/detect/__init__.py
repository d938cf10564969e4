"""Look for objects where a picture changed, and track them. Knows no other stage."""

from framegate.stages.detect.stage import Detect

__all__ = ["Detect"]
