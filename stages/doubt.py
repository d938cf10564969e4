"""How probable it is that the heavy pass would say something else of a frame."""

from __future__ import annotations

from stages.corrections import Corrections
from stages.detections import Detections


def doubt_of(known: Corrections, found: Detections, now_s: float) -> float:  # noqa: ARG001
    return 1.0 if known.at_s is None or now_s - known.at_s >= 0.3 else 0.0
