"""What detect and escalate say about a frame."""

from __future__ import annotations

import msgspec

from framegate.pipeline import records
from framegate.pipeline.records import (
    DegradedReason,
    Escalation,
    GateView,
    Looked,
    Object,
    Outcome,
    PromiseNews,
    Reason,
    Record,
)
from framegate.stages.changes import Changes


class Detections(msgspec.Struct, frozen=True, omit_defaults=True):
    """A frame's objects and how they came about; see records.Result for the fields.

    novelty  0..2, how unlike the last frames it looks; None where no window head looked
    promise  what became known with this frame of what is promised
    changes  where it differs from what was looked at; None: nowhere, or no gate tells
    """

    outcome: Outcome
    looked: Looked
    reason: Reason
    objects: tuple[Object, ...]
    models: tuple[str, ...]
    age_s: float = 0.0
    scene: int = 0
    escalation: Escalation = "none"
    gate: GateView | None = None
    novelty: float | None = None
    degraded: DegradedReason | None = None
    promise: PromiseNews | None = None
    changes: Changes | None = None


def last_detections(record: Record) -> Detections:
    """What stands about a frame: what the last stage to say anything said of it.

    Stages between detect and cache say Detections, or None to leave things as they are. KeyError
    if no stage said anything.
    """
    for name in reversed(record.said):
        return records.decode(record.said[name], Detections)
    raise KeyError("no detections; no stage said anything about this frame")
