"""How known objects go on from one frame to the next, as their tracks tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.gate.cells import BoolArray
from framegate.models.tracking.bytetrack import TrackState
from framegate.stages.detect.memory import Believed

_SPEED_VARIANCE: Final = 0.15  # of a track, square pixels a frame: some three looks


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """One row a believed box.

    speeds  float32 (N, 4)  pixels that the middle of each goes a frame, twice; 0 without a track
    sure    bool (N,)       the track was seen often enough for its speed to be known
    """

    speeds: FloatArray
    sure: BoolArray


def motion_of(believed: Believed, tracks: TrackState) -> Motion:
    """The motion of everything that is believed, by its track."""
    rows = {track: row for row, track in enumerate(tracks.ids.tolist()) if track}
    at = np.array([rows.get(track, -1) for track in believed.ids.tolist()], np.intp)
    tracked = at >= 0
    speeds = np.zeros((len(at), 4), np.float32)
    sure: BoolArray = np.zeros(len(at), np.bool_)
    if tracked.any():
        edges = tracks.mean[at[tracked], 4:]
        speeds[tracked, :2] = speeds[tracked, 2:] = (edges[:, :2] + edges[:, 2:]) / 2
        sure[tracked] = tracks.covariance[at[tracked], 2] <= _SPEED_VARIANCE
    return Motion(speeds, sure)
