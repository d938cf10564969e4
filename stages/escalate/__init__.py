"""Escalation: doubt about a frame, queries to the heavy pass, and corrections by its answers."""

from framegate.stages.escalate.stage import Escalate

__all__ = ["Escalate"]
