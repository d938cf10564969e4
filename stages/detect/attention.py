"""Where to look in a frame: decided from what changed and from how old what is known is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.gate import crops, gate
from framegate.models.gate.cells import BoolArray, Cells, cells_of, grid_of
from framegate.models.gate.crops import CropSettings, Look
from framegate.models.gate.gate import Change, GateSettings
from framegate.models.picture import Picture
from framegate.models.tracking.bytetrack import TrackState
from framegate.pipeline.records import BeginReason, Looked, Reason
from framegate.stages.detect import ageing
from framegate.stages.detect.gate_options import GateOptions
from framegate.stages.detect.memory import Memory
from framegate.stages.detect.waiting import may_wait

_MOVING_PERIOD_S: Final = 1 / 15  # of whole passes while the camera moves
_UNKNOWN_PERIOD_S: Final = 1 / 30  # of a frame whose time stamps do not tell
_LEAST_TRUST: Final = 0.6
_ROUNDING_S: Final = 0.004
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
            places = ageing.aged(
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
        is_due |= ageing.any_too_old(memory, now_s, options, shown)
        return "whole" if is_due else "no", "moving", _NO_PLACES
    changed = _NO_PLACES
    if change.hot.any():
        if may_wait(memory, tracks, now_s, change, options, shown):
            return "no", "waiting", _NO_PLACES
        changed = crops.places_of(change.hot, change.state.grid.tile_px)
    if len(memory.doubted):
        return "whole", "doubted", _NO_PLACES
    aged = ageing.aged(memory, now_s, moment.key, options, shown)
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
        return moment.anew
    if ageing.frame_is_due(memory, now_s, moment.key, options):
        return "frame_age"
    return "exposure" if change.exposure else None
