"""All thresholds of tracks and of what is shown, from the detector's own: their one home."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from framegate.models.tracking.bytetrack import TrackSettings
from framegate.models.tracking.calm import CalmSettings

CALM: Final = CalmSettings()
# Tracks begin where the detector is sure; candidates continue them. By class: the light network
# often sees one object as two classes, and their boxes would take each other's track.
TRACKS: Final = TrackSettings(high=0.41, low=CALM.candidate, start=0.46, by_class=True)
# The light detector's threshold for single looks, with which both were chosen.
_SINGLE: Final = 0.31


def settings_for(min_score: float, exactly: bool = False) -> tuple[CalmSettings, TrackSettings]:
    """Return both settings for a detector with this threshold for single looks, 0..1.

    exactly  True: no object's mean may be below it either, as when a user has asked for it
    """
    part, above = min_score / _SINGLE, 1 - min_score
    calm = replace(
        CALM,
        shown=min_score if exactly else CALM.shown * part,
        candidate=CALM.candidate * part,
        first=min(CALM.first, above / 6),
    )
    high, start = min(TRACKS.high - _SINGLE, above / 3), min(TRACKS.start - _SINGLE, above / 2)
    tracks = replace(TRACKS, high=min_score + high, low=calm.candidate, start=min_score + start)
    return calm, tracks
