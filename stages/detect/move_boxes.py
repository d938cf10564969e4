"""Move known boxes along their tracks in frames without a look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, Boxes, FloatArray, IndexArray
from framegate.models.gate.cells import Grid, tile_spans, tiles_of
from framegate.models.gate.changed_tiles import DetectedChange
from framegate.models.tracking.track_state import TrackState
from framegate.stages.detect.memory import KnownBoxes

# A track's speed is known below this variance, in square pixels a frame: after about three looks.
_SPEED_VARIANCE: Final = 0.15
# An edge this close to the picture's border, in longer sides of the picture, is at the border.
_AT_BORDER: Final = 0.01
_MIN_SIDE: Final = 2.0  # pixels; a moved box with a shorter side has left the picture


def move_along(
    known: KnownBoxes,
    tracks: TrackState,
    change: DetectedChange,
    size: tuple[int, int],
    now_s: float,
) -> tuple[KnownBoxes, BoolArray | None]:
    """Return the boxes one frame later, and a mask of the moved rows; None if no box moved.

    size   (width, height) of the picture
    now_s  the source's clock

    A box with a changed tile moves with the speed of its track's centre and keeps its size, except
    at the picture's border. A box that leaves the picture is dropped.
    """
    spans = tile_spans(known.boxes.xyxy, change.state.grid)
    tracked = zip(known.ids.tolist(), spans, strict=True)
    moved: BoolArray = np.array(
        [track > 0 and np.count_nonzero(change.hot[span]) > 0 for track, span in tracked], np.bool_
    )
    if not np.count_nonzero(moved):
        return known, None
    # An object that is partly outside of the picture has an edge at the border, which stays there.
    before = known.boxes.xyxy
    border = np.array([0, 0, *size], np.float32)
    stays_there = np.abs(before - border) < max(size) * _AT_BORDER
    is_free = moved[:, None] & ~stays_there
    speeds = np.where(is_free, _motion_of(known, tracks).speeds, np.float32(0))
    limit = np.array(size * 2, np.float32)
    xyxy = np.minimum(np.maximum(before + speeds, np.float32(0)), limit)
    sides = xyxy[:, 2:] - xyxy[:, :2]
    stays = (np.minimum(sides[:, 0], sides[:, 1]) >= _MIN_SIDE) | ~moved
    since_s = np.where(moved, now_s, known.since_s)
    boxes = Boxes(xyxy, known.boxes.scores, known.boxes.class_ids)
    after = KnownBoxes(boxes, known.seen_s, since_s, known.ids, known.means)
    if np.count_nonzero(stays) == len(stays):
        return after, moved
    return after.take(stays), moved[stays]


def swept_tiles(known: KnownBoxes, tracks: TrackState, waited: int, grid: Grid) -> BoolArray:
    """Return the tiles that objects with a known speed pass: bool (tile_rows, tile_columns).

    waited  number of frames since the last look

    The tiles are those of an object's path from its place at the last look to its place in the
    next frame. An object that moves further than its shorter side until then is left out, because
    its prediction is unreliable.
    """
    motion = _motion_of(known, tracks)
    boxes, speeds = known.boxes.xyxy[motion.sure], motion.speeds[motion.sure]
    # Few different numpy functions: at a live pace, the first call of each starts with cold caches.
    sides = boxes[:, 2:] - boxes[:, :2]
    shorter = np.maximum(np.minimum(sides[:, 0], sides[:, 1]), 1)
    distances = np.maximum(speeds, -speeds)
    slow = np.maximum(distances[:, 0], distances[:, 1]) * (waited + 2) <= shorter
    first = boxes - speeds * waited
    last = boxes + speeds
    swept = np.minimum(first, last)
    swept[:, 2:] = np.maximum(first, last)[:, 2:]
    return tiles_of(swept[slow], grid, grow_px=grid.tile_px)


@dataclass(frozen=True, slots=True, eq=False)
class _Motion:
    """The motion of known boxes, one row for each.

    speeds  float32 (N, 4)  pixels a frame of the track's centre, (x, y) twice; 0 without a track
    sure    bool (N,)       the track was seen often enough for its speed to be known
    """

    speeds: FloatArray
    sure: BoolArray


@lru_cache(1)  # move_along and swept_tiles need the same result for a frame
def _motion_of(known: KnownBoxes, tracks: TrackState) -> _Motion:
    rows = {track: row for row, track in enumerate(tracks.ids.tolist()) if track}
    track_row: IndexArray = np.array([rows.get(track, -1) for track in known.ids.tolist()], np.intp)
    tracked = track_row >= 0
    speeds = np.zeros((len(track_row), 4), np.float32)
    sure: BoolArray = np.zeros(len(track_row), np.bool_)
    if tracked.any():
        edges = tracks.mean[track_row[tracked], 4:]
        centres = (edges[:, :2] + edges[:, 2:]) / 2
        speeds[tracked] = np.concatenate([centres, centres], axis=1)
        sure[tracked] = tracks.covariance[track_row[tracked], 2] <= _SPEED_VARIANCE
    return _Motion(speeds, sure)
