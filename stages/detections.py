"""What detect and escalate say about a frame."""

from __future__ import annotations

import msgspec

from pipeline import records
from pipeline.records import Escalation, Looked, Object, Outcome, Reason, Record

_NOTHING = b"\xc0"  # None, in msgpack


class Detections(msgspec.Struct, frozen=True, omit_defaults=True):
    """A frame's objects and how they came about; see records.Result for the fields."""

    outcome: Outcome
    looked: Looked
    reason: Reason
    objects: tuple[Object, ...]
    models: tuple[str, ...]
    age_s: float = 0.0
    scene: int = 0
    escalation: Escalation = "none"


def last_detections(record: Record) -> Detections:
    """What stands about a frame: stages after detect say Detections, or None to leave it so.

    KeyError if no stage said anything.
    """
    for name in reversed(record.said):
        said = record.said[name]
        if bytes(said) != _NOTHING:
            return records.decode(said, Detections)
    raise KeyError(f"no detections; the frame's record has {', '.join(record.said) or 'nothing'}")
