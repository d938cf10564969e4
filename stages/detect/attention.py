"""Where to look in a frame: from what changed, how old what is known is, and what may wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, DoubleArray, FloatArray
from framegate.models.gate import crops, gate
from framegate.models.gate.cells import Cells, cells_of, grid_of, tiles_of
from framegate.models.gate.crops import CropSettings, Look
from framegate.models.gate.gate import Change
from framegate.models.gate.seams import Merged
from framegate.models.gate.settings import GateSettings
from framegate.models.gate.state import SHORTEST, age_limit
from framegate.models.picture import Picture
from framegate.models.tracking.bytetrack import TrackState
from framegate.pipeline.records import BeginReason, Looked, Reason
from framegate.stages.detect.memory import Believed, Memory
from framegate.stages.detect.options import GateOptions

# -- How old what is known may get before it is looked at again.


_SOON: Final = 0.5  # of the age at which a look is due: it is cheaper together
_IN_DOUBT: Final = 0.04  # so near to the least score that is shown
_NONE: Final = np.empty((0, 4), np.float32)


def frame_is_due(memory: Memory, now_s: float, key: bytes, options: GateOptions) -> bool:
    """Whether the whole frame was not looked at for so long that it must be, now."""
    limit_s = age_limit(options.frame_age_s, key, (round(memory.whole_s * 1000),))
    return now_s - memory.whole_s >= limit_s


def aged(
    memory: Memory,
    now_s: float,
    key: bytes,
    options: GateOptions,
    shown: float,
    with_soon: bool = True,
) -> FloatArray:
    """Boxes (M, 4) that were not seen for too long; if any was not, those too that soon will be.

    now_s  the source's clock; key  of the source; shown  0..1, least score of what is shown
    """
    if _all_fresh(memory, now_s, SHORTEST * options.object_age_s):
        return _NONE
    ages, most = _ages(memory, now_s, options, shown)
    if not (ages >= SHORTEST * most).any():
        return _NONE
    believed = memory.believed
    seen_ms, tracks = np.rint(believed.seen_s * 1000).astype(int).tolist(), believed.ids.tolist()
    limits = np.array(
        [
            age_limit(limit, key, (seen, track)) if math.isfinite(limit) else limit
            for limit, seen, track in zip(most.tolist(), seen_ms, tracks, strict=True)
        ]
    )
    # What may be as old as the frame is seen with it.
    limits = np.where(most < options.frame_age_s, limits, most)
    if not (ages >= limits).any():
        return _NONE
    limits = np.minimum(limits, _SOON * most) if with_soon else limits
    old: FloatArray = believed.boxes.xyxy[ages >= limits]
    return old


def any_too_old(memory: Memory, now_s: float, options: GateOptions, shown: float) -> bool:
    """Whether something was not seen for as long as it may be: then nothing waits."""
    if _all_fresh(memory, now_s, options.object_age_s):
        return False
    ages, most = _ages(memory, now_s, options, shown)
    return bool((ages >= most).any())


def _all_fresh(memory: Memory, now_s: float, age_s: float) -> bool:
    """Whether everything was looked at within the shortest age: then no ages are compared."""
    return bool(now_s - memory.believed.seen_s.min(initial=now_s) < age_s)


def _ages(
    memory: Memory, now_s: float, options: GateOptions, shown: float
) -> tuple[DoubleArray, DoubleArray]:
    """Of each believed box, seconds since it was looked at, and the most that may be.

    What was found where it is for some time is trusted for as long again, so the time between two
    looks at what stands still doubles; but not where its score leaves in doubt whether it is shown.
    For what is surely not shown there is no limit.
    """
    believed = memory.believed
    is_shown = believed.means > 0
    margin = np.where(is_shown, believed.means, believed.boxes.scores) - np.float32(shown)
    longest = max(options.object_age_s, options.still_age_s)
    most = np.clip(believed.seen_s - believed.since_s, options.object_age_s, longest)
    most[np.abs(margin) < _IN_DOUBT] = options.object_age_s
    most[~is_shown & (margin <= -_IN_DOUBT)] = np.inf
    return now_s - believed.seen_s, most


# -- How known objects go on from one frame to the next, as their tracks tell.


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


# -- Whether what changed may wait for its look while what is known goes on as its tracks tell.


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


_MOVING_PERIOD_S: Final = 1 / 15  # of whole passes while the camera moves
_UNKNOWN_PERIOD_S: Final = 1 / 30  # of a frame whose time stamps do not tell
_LEAST_TRUST: Final = 0.6
_NO_PLACES: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame, beside its pixels.

    key   of its source, for what is to be spread over time
    anew  why nothing is remembered of the frames before it, where that is so
    """

    pts: float | None
    key_frame: bool
    key: bytes
    anew: BeginReason = "first"


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """What is to be done about a frame.

    looks    parts to give to the network; one of them may be the whole
    clock_s  the source's clock at this frame
    asked    float32 (M, 4)  places, in source pixels, that parts are looked at for
    """

    looks: tuple[Look, ...]
    looked: Looked
    reason: Reason
    clock_s: float
    cells: Cells | None = None
    change: Change | None = None
    asked: FloatArray = field(default_factory=lambda: _NO_PLACES)


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """Numbers behind GateOptions, for one detector.

    long_side  of the network's input
    shown      0..1, mean score from which on an object is shown
    """

    options: GateOptions
    long_side: int
    gate: GateSettings
    crops: CropSettings
    shown: float


def clock_s(memory: Memory, pts: float | None) -> float:
    """The source's clock at a frame with time stamp `pts`, the next one after `memory`, in seconds.

    Time stamps may be missing or not rise, as where a camera starts its own anew: then a frame
    lasts 1/30 s, so that no age stands still.
    """
    before = memory.pts
    if before is None or pts is None or pts <= before:
        return memory.clock_s + _UNKNOWN_PERIOD_S
    return memory.clock_s + pts - before


def attend(
    memory: Memory,
    tracks: TrackState,
    now_s: float,
    picture: Picture,
    moment: Moment,
    settings: AttentionSettings,
    ignored: BoolArray | None = None,
) -> Attention:
    """What to look at in `picture`; a pure function.

    now_s    the source's clock
    ignored  tiles whose changes do not count, bool (tile_rows, tile_columns)
    """
    size = picture.width, picture.height
    if settings.options.mode == "off":
        whole = (crops.whole(*size, settings.long_side),)
        return Attention(whole, "whole", "every_frame", now_s)
    grid = grid_of(*size)
    cells = cells_of(picture, grid)
    change = gate.look(memory.gate, cells, grid, moment.key_frame, settings.gate, ignored)
    looked, reason, places = _choice(memory, tracks, now_s, moment, change, settings)
    looks: tuple[Look, ...] | None = ()
    if looked == "part":
        known = memory.believed.boxes.xyxy
        looks = crops.plan(places, known, size, settings.long_side, settings.crops)
        if looks is None and reason == "age":
            places = aged(
                memory, now_s, moment.key, settings.options, settings.shown, with_soon=False
            )
            looks = crops.plan(places, known, size, settings.long_side, settings.crops)
    if looked == "whole" or looks is None:
        reason = "too_much" if looks is None else reason
        looked, looks = "whole", (crops.whole(*size, settings.long_side),)
    return Attention(looks, looked, reason, now_s, cells, change, places)


def _choice(
    memory: Memory,
    tracks: TrackState,
    now_s: float,
    moment: Moment,
    change: Change,
    using: AttentionSettings,
) -> tuple[Looked, Reason, FloatArray]:
    """How much to look at, why, and the places (M, 4) in source pixels if a part is enough."""
    options, shown = using.options, using.shown
    reason = _reason_for_whole(memory, now_s, moment, change, options)
    if reason is not None:
        return "whole", reason, _NO_PLACES
    if change.moving:
        is_due = now_s - memory.look_s >= _MOVING_PERIOD_S - _ROUNDING_S
        is_due |= any_too_old(memory, now_s, options, shown)
        return "whole" if is_due else "no", "moving", _NO_PLACES
    changed = _NO_PLACES
    if change.hot.any():
        if may_wait(memory, tracks, now_s, change, options, shown):
            return "no", "waiting", _NO_PLACES
        changed = crops.places_of(change.hot, change.state.grid.tile_px)
    if len(memory.doubted):
        return "whole", "doubted", _NO_PLACES
    too_old = aged(memory, now_s, moment.key, options, shown)
    places = np.concatenate([changed, memory.cut, too_old])
    if not len(places):
        return "no", "unchanged", _NO_PLACES
    why: Reason = "age" if len(places) == len(too_old) else "changed"
    can_be_part = options.mode == "crops" and memory.trust >= _LEAST_TRUST
    return "part" if can_be_part else "whole", why, places


def _reason_for_whole(
    memory: Memory, now_s: float, moment: Moment, change: Change, options: GateOptions
) -> Reason | None:
    if memory.gate is None:
        return moment.anew
    if frame_is_due(memory, now_s, moment.key, options):
        return "frame_age"
    return "exposure" if change.exposure else None
