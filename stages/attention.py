"""Where to look in a frame: decided from what changed and from how old what is known is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from models import crops, gate
from models.ages import age_limit
from models.boxes import FloatArray
from models.cells import BoolArray, Cells, cells_of, grid_of, tiles_of
from models.crops import CropSettings, Look
from models.gate import Change, GateSettings
from models.picture import Picture
from models.track_state import TrackState
from pipeline.records import Looked, Reason
from stages.gate_options import GateOptions
from stages.memory import Believed, Memory

_MOVING_PERIOD_S: Final = 1 / 15  # of whole passes while the camera moves
_UNKNOWN_PERIOD_S: Final = 1 / 30  # of a frame whose time stamps do not tell
_UNKNOWN_WAIT_S: Final = 0.1  # for what changes and is in no object
_SPEED_VARIANCE: Final = 0.15  # of a track, square pixels a frame: some three looks
_LEAST_TRUST: Final = 0.6
_ROUNDING_S: Final = 0.004
_MOVED_MOST: Final = 0.3  # of its shorter side, of a box that nobody looks at
_SOON: Final = 0.5  # of the age at which a look is due: it is cheaper together
_NEXT_TILES: Final = np.ones((3, 3), np.uint8)
_NO_PLACES: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame, beside its pixels.

    key   of its source, for what is to be spread over time
    lost  whether what was remembered of the frames before it is lost
    """

    pts: float | None
    key_frame: bool
    key: bytes
    lost: bool = False


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
    """

    options: GateOptions
    long_side: int
    gate: GateSettings
    crops: CropSettings


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
    looked, reason, places = _choice(memory, tracks, now_s, moment, change, settings.options)
    looks: tuple[Look, ...] | None = ()
    if looked == "part":
        known = memory.believed.boxes.xyxy
        looks = crops.plan(places, known, size, settings.long_side, settings.crops)
        if looks is None and reason == "age":
            places = _aged(memory, now_s, moment, settings.options, with_soon=False)
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
    options: GateOptions,
) -> tuple[Looked, Reason, FloatArray]:
    """How much to look at, why, and the places (M, 4) in source pixels if a part is enough."""
    reason = _reason_for_whole(memory, now_s, moment, change, options)
    if reason is not None:
        return "whole", reason, _NO_PLACES
    if change.moving:
        is_due = now_s - memory.look_s >= _MOVING_PERIOD_S - _ROUNDING_S
        is_due |= _too_old(memory, now_s, options)
        return "whole" if is_due else "no", "moving", _NO_PLACES
    any_hot = bool(change.hot.any())
    changed = crops.places_of(change.hot, change.state.grid.tile_px) if any_hot else _NO_PLACES
    if len(changed) and _may_wait(memory, tracks, now_s, change, options):
        return "no", "waiting", _NO_PLACES
    if len(memory.doubted):
        return "whole", "doubted", _NO_PLACES
    aged = _aged(memory, now_s, moment, options)
    places = np.concatenate([changed, memory.cut, aged])
    if not len(places):
        return "no", "unchanged", _NO_PLACES
    why: Reason = "age" if len(places) == len(aged) else "changed"
    can_be_part = options.mode == "crops" and memory.trust >= _LEAST_TRUST
    return "part" if can_be_part else "whole", why, places


def _reason_for_whole(
    memory: Memory, now_s: float, moment: Moment, change: Change, options: GateOptions
) -> Reason | None:
    if memory.gate is None:
        return "reanchored" if moment.lost else "first"
    if now_s - memory.whole_s >= _limit_s(options.frame_age_s, moment.key, memory.whole_s):
        return "frame_age"
    return "exposure" if change.exposure else None


def _may_wait(
    memory: Memory, tracks: TrackState, now_s: float, change: Change, options: GateOptions
) -> bool:
    """Whether all that changed is known: objects whose motion can be told until the next frame, and
    what was looked at when it last changed, and is in none.

    An object's motion cannot be told where it goes a good part of its own size until then.
    """
    if not options.most:
        return False
    next_s = now_s + (now_s - memory.clock_s)
    too_late = next_s - memory.look_s > options.wait_s + _ROUNDING_S
    if too_late or memory.waited >= options.wait_frames or _too_old(memory, now_s, options):
        return False
    grid = change.state.grid
    boxes, speeds = _moving(memory.believed, tracks)
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf), 1)
    slow = np.abs(speeds).max(axis=1, initial=0) * (memory.waited + 2) <= _MOVED_MOST * sides
    # Since the last look an object uncovered where it was, and covers where it is now and goes to.
    was, goes = boxes - speeds * memory.waited, boxes + speeds
    swept = np.hstack([np.minimum(was, goes)[:, :2], np.maximum(was, goes)[:, 2:]])[slow]
    known = tiles_of(swept, grid, grow_px=grid.tile_px).any(axis=0)
    if memory.watched.size and next_s - memory.look_s <= _UNKNOWN_WAIT_S + _ROUNDING_S:
        known |= cv2.dilate(memory.watched.astype(np.uint8), _NEXT_TILES).astype(np.bool_)
    return not (change.hot & ~known).any()


def _moving(believed: Believed, tracks: TrackState) -> tuple[FloatArray, FloatArray]:
    """Boxes whose tracks have a known speed: pixels (N, 4) that the middle of each goes a frame."""
    known = (tracks.ids > 0) & (tracks.covariance[:, 2] <= _SPEED_VARIANCE)
    rows = {track: row for row, track in enumerate(tracks.ids.tolist()) if known[row]}
    at = np.array([rows.get(track, -1) for track in believed.ids.tolist()], np.intp)
    edges = tracks.mean[at[at >= 0], 4:]
    speeds: FloatArray = np.tile((edges[:, :2] + edges[:, 2:]) / 2, 2)
    return believed.boxes.xyxy[at >= 0], speeds


def _aged(
    memory: Memory, now_s: float, moment: Moment, options: GateOptions, with_soon: bool = True
) -> FloatArray:
    """Objects that were not seen for too long; if any was not, those too that soon will be."""
    believed = memory.believed.take(memory.believed.shown())
    ages = now_s - believed.seen_s
    limits = np.array(
        [
            _limit_s(options.object_age_s, moment.key, seen_s, track)
            for seen_s, track in zip(believed.seen_s.tolist(), believed.ids.tolist(), strict=True)
        ]
    )
    if not (ages >= limits).any():
        return _NO_PLACES
    limits = np.minimum(limits, _SOON * options.object_age_s) if with_soon else limits
    aged: FloatArray = believed.boxes.xyxy[ages >= limits]
    return aged


def _too_old(memory: Memory, now_s: float, options: GateOptions) -> bool:
    """Whether an object was not seen for as long as any may be: then nothing waits."""
    believed = memory.believed
    ages = now_s - believed.seen_s[believed.means > 0]
    return bool(ages.max(initial=0) >= options.object_age_s)


def _limit_s(most_s: float, key: bytes, since_s: float, track: int = 0) -> float:
    return age_limit(most_s, key, (round(since_s * 1000), track))
