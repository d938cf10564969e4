"""Ask the heavy pass where the light detector is in doubt. Knows audit and detect."""

from framegate.stages.escalate.stage import Escalate

__all__ = ["Escalate"]
