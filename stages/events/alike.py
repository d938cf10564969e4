"""A visit that is like the marked ones, as a period in which a rule was true."""

from __future__ import annotations

from typing import Final

import msgspec

from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.visits import Visit
from framegate.stages.events.state import Now, Stretch

LEAST_LIKENESS: Final = 0.5  # of a visit if the rule has no min_score


def stretch_of(visit: Visit, value: float, now: Now) -> Stretch:
    """Return a visit as a period in which a rule was true. value: its likeness."""
    width, height = visit.size
    foot = visit.path[0]
    left, top = foot.x - width / 2, foot.y - height
    edges = [min(max(edge, 0.0), 1.0) for edge in (left, top, left + width, foot.y)]
    x1, y1, x2, y2 = [round(edge * 10_000) for edge in edges]
    began = StoredMoment(*msgspec.structs.astuple(visit.began))
    last = StoredMoment(*msgspec.structs.astuple(visit.last))
    return Stretch(
        (visit.track,),
        visit.track,
        began,
        now.ms - max(round((now.at.media_s - began.media_s) * 1000), 0),
        last,
        now.ms - max(round((now.at.media_s - last.media_s) * 1000), 0),
        visit.label,
        (x1, y1, x2, y2),
        now.result.models,
        sightings=visit.looks,
        value=value,
    )
