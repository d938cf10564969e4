"""Derive the score thresholds of tracks and of shown boxes from that of the detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from framegate.models.tracking.bytetrack import TrackSettings
from framegate.models.tracking.calm import CalmSettings

CALM: Final = CalmSettings()
# A track begins with whatever a single look would show, so that what is shown has one; candidates
# continue it, taken for something else only where they lie on it. `soon_s` is three periods at 25
# frames/s: below 8 frames/s a larger overlap loses the numbers of objects that move fast.
TRACKS: Final = TrackSettings(
    high=CALM.shown,
    low=CALM.candidate,
    start=CALM.shown,
    other_iou=0.5,
    rest_s=0.6,
    soon_s=0.13,
    soon_iou=0.3,
)
# The lower threshold of a published track is this share of the threshold at which it appears: the
# lowest, in steps of .01 of the score, at which no clip that chooses loses F1 by its labels.
_KEPT: Final = 0.9
_SINGLE: Final = 0.42  # threshold for single looks of the detector that both were chosen with


def mean_for(min_score: float) -> float:
    """Return the least mean of an object's scores that goes with this threshold of single looks."""
    return CALM.shown * (min_score / _SINGLE)


def kept_for(shown: float) -> float:
    """Return the lower threshold, of published tracks, that goes with the threshold to appear."""
    return _KEPT * shown


def settings_for(min_score: float, exactly: bool = False) -> tuple[CalmSettings, TrackSettings]:
    """Return both settings for a detector with this threshold for single looks, 0..1.

    exactly  True: no object's mean may be below it either, as when a user has asked for it
    """
    part = min_score / _SINGLE
    shown = mean_for(min_score)
    kept = kept_for(shown)
    if exactly:
        shown, kept = min_score, min_score
    calm = replace(
        CALM,
        shown=shown,
        kept=kept,
        candidate=CALM.candidate * part,
        first=min(CALM.first, (1 - min_score) / 6),
    )
    tracks = replace(TRACKS, high=calm.shown, low=calm.candidate, start=calm.shown)
    return calm, tracks
