"""Drop the boxes that the object filters refuse, and track the others."""

from __future__ import annotations

from dataclasses import dataclass

from framegate.models.boxes import BoolArray, IntArray
from framegate.models.gate.crops import Merged
from framegate.models.tracking import bytetrack
from framegate.models.tracking.bytetrack import TrackSettings
from framegate.models.tracking.track_state import TrackState
from framegate.stages.detect.memory import CurrentFrame
from framegate.stages.object_filters import (
    NONE_PASSES,
    Elsewhere,
    SourceFilters,
    passing_objects,
)


@dataclass(frozen=True, slots=True, eq=False)
class KeptBoxes:
    """The boxes of a frame that no filter drops, and their tracks.

    merged     with the classes of the tracks
    ids        int32 (N,)  track of each box, 0 without a track
    elsewhere  tracks that may pass a filtered place
    """

    tracks: TrackState
    merged: Merged
    ids: IntArray
    elsewhere: Elsewhere


def track_kept(
    frame: CurrentFrame,
    merged: Merged,
    settings: TrackSettings,
    filters: SourceFilters | None,
    now_s: float,
) -> KeptBoxes:
    """Return the boxes that no filter drops, with their tracks.

    Filters apply twice: to the classes of the boxes, so that what they drop gets no track, and to
    the classes of the tracks, which are published.
    """
    tracks, elsewhere, passing = frame.tracks, frame.memory.elsewhere, NONE_PASSES
    if filters:
        if frame.memory.pts is None:  # the filters may be new
            tracks = tracks.take(~filters.at_places(tracks))
        elsewhere, passing = passing_objects(filters, tracks, elsewhere, now_s)
        merged = _taken(merged, filters.kept(merged.boxes, merged.is_new, passing))
    tracks, ids = bytetrack.step(tracks, merged.boxes, frame.pts, settings, merged.is_new)
    names = tracks.named(ids, merged.boxes.class_ids)
    merged = Merged(merged.boxes.named(names), merged.is_new, merged.known_row, merged.cut)
    if filters:
        kept = filters.kept(merged.boxes, merged.is_new, passing)
        merged, ids = _taken(merged, kept), ids[kept]
    return KeptBoxes(tracks, merged, ids, elsewhere)


def _taken(merged: Merged, kept: BoolArray) -> Merged:
    """Return the rows of a mask."""
    return Merged(merged.boxes.take(kept), merged.is_new[kept], merged.known_row[kept], merged.cut)
