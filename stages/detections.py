"""What detect and escalate say about a frame."""

from __future__ import annotations

import msgspec

from pipeline.records import Escalation, Looked, Object, Outcome, Reason


class Detections(msgspec.Struct, frozen=True):
    """A frame's objects and how they came about; see records.Result for the fields."""

    outcome: Outcome
    looked: Looked
    reason: Reason
    objects: tuple[Object, ...]
    models: tuple[str, ...]
    age_s: float = 0.0
    scene: int = 0
    escalation: Escalation = "none"
