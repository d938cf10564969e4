"""How known boxes go on from one frame to the next while nobody looks, as their tracks tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, Boxes, FloatArray, IndexArray
from framegate.models.gate.cells import Grid, tile_spans, tiles_of
from framegate.models.gate.gate import DetectedChange
from framegate.models.tracking.bytetrack import TrackState
from framegate.stages.detect.memory import KnownBoxes

_SPEED_VARIANCE: Final = 0.15  # of a track, square pixels a frame: some three looks
_LEAST_SIDE: Final = 2.0  # pixels of a moved box that are still in the picture


def move_along(
    known: KnownBoxes,
    tracks: TrackState,
    change: DetectedChange,
    size: tuple[int, int],
    now_s: float,
) -> tuple[KnownBoxes, BoolArray | None]:
    """Return the boxes a frame later, and which rows were moved: those in which something changed;
    None where none were.

    size   (width, height) of the picture; now_s  the source's clock

    They go as fast as the middle of their tracks and keep their size; what leaves the picture goes.
    """
    spans = tile_spans(known.boxes.xyxy, change.state.grid)
    tracked = zip(known.ids.tolist(), spans, strict=True)
    moved: BoolArray = np.array(
        [track > 0 and np.count_nonzero(change.hot[span]) > 0 for track, span in tracked], np.bool_
    )
    if not np.count_nonzero(moved):
        return known, None
    speeds = np.where(moved[:, None], _motion_of(known, tracks).speeds, np.float32(0))
    limit = np.array(size * 2, np.float32)
    xyxy = np.minimum(np.maximum(known.boxes.xyxy + speeds, np.float32(0)), limit)
    sides = xyxy[:, 2:] - xyxy[:, :2]
    stays = (np.minimum(sides[:, 0], sides[:, 1]) >= _LEAST_SIDE) | ~moved
    since_s = np.where(moved, now_s, known.since_s)
    boxes = Boxes(xyxy, known.boxes.scores, known.boxes.class_ids)
    after = KnownBoxes(boxes, known.seen_s, since_s, known.ids, known.means)
    is_all = np.count_nonzero(stays) == len(stays)
    return (after, moved) if is_all else (after.take(stays), moved[stays])


def swept_tiles(known: KnownBoxes, tracks: TrackState, waited: int, grid: Grid) -> BoolArray:
    """Return the tiles that objects of a known speed uncovered in the frames `waited` since the
    last look, cover, and go to: bool (tile_rows, tile_columns).

    The motion of one that goes further than its own size until the next look cannot be told.
    """
    motion = _motion_of(known, tracks)
    boxes, speeds = known.boxes.xyxy[motion.sure], motion.speeds[motion.sure]
    # Few functions, each over and over: at a live pace the first call of each waits for memory.
    sides = boxes[:, 2:] - boxes[:, :2]
    least = np.maximum(np.minimum(sides[:, 0], sides[:, 1]), 1)
    most = np.maximum(speeds, -speeds)
    slow = np.maximum(most[:, 0], most[:, 1]) * (waited + 2) <= least
    was, goes = boxes - speeds * waited, boxes + speeds
    swept = np.minimum(was, goes)
    swept[:, 2:] = np.maximum(was, goes)[:, 2:]
    return tiles_of(swept[slow], grid, grow_px=grid.tile_px)


@dataclass(frozen=True, slots=True, eq=False)
class _Motion:
    """One row a known box.

    speeds  float32 (N, 4)  pixels that the middle of each goes a frame, twice; 0 without a track
    sure    bool (N,)       the track was seen often enough for its speed to be known
    """

    speeds: FloatArray
    sure: BoolArray


@lru_cache(1)  # a frame asks twice, of the same two
def _motion_of(known: KnownBoxes, tracks: TrackState) -> _Motion:
    rows = {track: row for row, track in enumerate(tracks.ids.tolist()) if track}
    track_row: IndexArray = np.array([rows.get(track, -1) for track in known.ids.tolist()], np.intp)
    tracked = track_row >= 0
    speeds = np.zeros((len(track_row), 4), np.float32)
    sure: BoolArray = np.zeros(len(track_row), np.bool_)
    if tracked.any():
        edges = tracks.mean[track_row[tracked], 4:]
        speeds[tracked, :2] = speeds[tracked, 2:] = (edges[:, :2] + edges[:, 2:]) / 2
        sure[tracked] = tracks.covariance[track_row[tracked], 2] <= _SPEED_VARIANCE
    return _Motion(speeds, sure)
