"""Whether what changed may wait for its look while what is known goes on as its tracks tell."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.gate.cells import BoolArray, tiles_of
from framegate.models.gate.gate import Change
from framegate.models.gate.seams import Merged
from framegate.models.tracking.bytetrack import TrackState
from framegate.stages.detect.ageing import any_too_old
from framegate.stages.detect.gate_options import GateOptions
from framegate.stages.detect.memory import Memory
from framegate.stages.detect.motion import motion_of

_UNKNOWN_WAIT_S: Final = 0.1  # for what changes and is in no object
_ROUNDING_S: Final = 0.004
_NEXT_TILES: Final = np.ones((3, 3), np.uint8)
# How much of what is shown a look must find as it was held, for changes to wait a frame longer than
# they just did, and below which they wait half as long.
_GOOD: Final = 0.92
_BAD: Final = 0.87


def may_wait(
    memory: Memory,
    tracks: TrackState,
    now_s: float,
    change: Change,
    options: GateOptions,
    shown: float,
) -> bool:
    """Whether all that changed is known: objects whose motion can be told until the next frame, and
    what was looked at when it last changed, and is in none.
    """
    if not options.most or memory.waited >= min(options.wait_frames, int(memory.patience)):
        return False
    next_s = now_s + (now_s - memory.clock_s)
    waits_s = next_s - memory.look_s - _ROUNDING_S
    if waits_s > options.wait_s or any_too_old(memory, now_s, options, shown):
        return False
    known = _swept(memory, tracks, change)
    if memory.watched.size and waits_s <= _UNKNOWN_WAIT_S:
        known |= cv2.dilate(memory.watched.astype(np.uint8), _NEXT_TILES).astype(np.bool_)
    return not (change.hot & ~known).any()


def _swept(memory: Memory, tracks: TrackState, change: Change) -> BoolArray:
    """Tiles that objects of a known speed uncovered since the last look, cover, and go to.

    The motion of one that goes further than its own size until the next look cannot be told.
    """
    motion, grid = motion_of(memory.believed, tracks), change.state.grid
    boxes, speeds = memory.believed.boxes.xyxy[motion.sure], motion.speeds[motion.sure]
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf), 1)
    slow = np.abs(speeds).max(axis=1, initial=0) * (memory.waited + 2) <= sides
    was, goes = boxes - speeds * memory.waited, boxes + speeds
    swept = np.hstack([np.minimum(was, goes)[:, :2], np.maximum(was, goes)[:, 2:]])[slow]
    return np.asarray(tiles_of(swept, grid, grow_px=grid.tile_px).any(axis=0), np.bool_)


def patience_after(memory: Memory, merged: Merged, means: FloatArray) -> float:
    """Frames for which changes may wait from now on: by how well what held meanwhile was found.

    memory  before the look; merged  what holds after it; means  float32 (N,), as in Believed

    Rises by a frame at a time, and only over what was tried; halves.
    """
    waited, known = memory.waited, memory.believed
    if not waited:
        return memory.patience
    before = known.means > 0
    before[merged.known_row[~merged.is_new]] = False  # not looked at
    after = merged.is_new & (means > 0)
    rows = merged.known_row[after]
    found = np.count_nonzero(known.means[rows[rows >= 0]] > 0)
    total = np.count_nonzero(before) + np.count_nonzero(after)
    agreement = 2 * found / total if total else 1.0
    if agreement >= _GOOD:
        return max(memory.patience, waited + 1.0)
    return max(min(memory.patience, waited / 2), 1.0) if agreement < _BAD else memory.patience
