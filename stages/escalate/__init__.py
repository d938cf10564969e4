"""Escalation: doubt, the choice of questions to the heavy pass, corrections from its answers."""

from framegate.stages.escalate.stage import Escalate

__all__ = ["Escalate"]
