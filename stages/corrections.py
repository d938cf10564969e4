"""What an answer teaches: nothing yet beyond its own frame."""

from __future__ import annotations

import msgspec

from models import coco
from models.boxes import Boxes
from pipeline.records import Object
from stages.detections import Detections


class Corrections(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    at_s: float = -1.0


def served(
    known: Corrections,
    found: Detections,
    now_s: float,  # noqa: ARG001
) -> tuple[tuple[Object, ...], Corrections]:
    return found.objects, known


def learned(
    known: Corrections,  # noqa: ARG001
    found: Detections,  # noqa: ARG001
    heavy: Boxes,
    now_s: float,
) -> tuple[Corrections, tuple[Object, ...]]:
    rows = zip(heavy.xyxy.tolist(), heavy.scores.tolist(), heavy.class_ids.tolist(), strict=True)
    objects = tuple(
        Object(None, coco.LABELS[c], c, round(s, 4), tuple(round(v, 1) for v in b), "escalated")
        for b, s, c in rows
    )
    return Corrections(round(now_s, 3)), objects


def doubt_of(
    known: Corrections,
    found: Detections,  # noqa: ARG001
    now_s: float,
) -> float:
    return 1.0 if now_s - known.at_s >= 0.3 else 0.0
