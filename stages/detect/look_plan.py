"""Plan the looks at a frame: from changed tiles, the age of known boxes, and what may wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, DoubleArray, FloatArray
from framegate.models.gate import changed_tiles, crops
from framegate.models.gate.cells import Cells, cells_of, grid_of, tiles_of
from framegate.models.gate.changed_tiles import DetectedChange, limit_of
from framegate.models.gate.crops import Crop, CropSettings
from framegate.models.gate.settings import GateSettings, settings_of
from framegate.models.gate.state import SHORTEST, age_limit
from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import GateView, Looked, Reason
from framegate.pipeline.contracts.source import Form
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.detect.move_boxes import swept_tiles
from framegate.stages.detect.options import GateOptions

_MOVING_PERIOD_S: Final = 1 / 15  # between looks at the whole frame while the camera moves
_ROUNDING_S: Final = 0.004  # time stamps are rounded, so a period may appear this much shorter
_MIN_TRUST: Final = 0.6  # below this, the whole frame is looked at instead of parts
_NO_PLACES: Final = np.empty((0, 4), np.float32)


Area = tuple[int, int, int, int]  # left, top, right, bottom in source pixels


@dataclass(frozen=True, slots=True, eq=False)
class LookPlan:
    """The looks that a frame needs, and the reason.

    looks    parts of the frame for the network, or one look at the whole frame
    now_s    the source's clock at this frame
    cells    of the picture; None without a gate
    change   the changed tiles; None without a gate
    places   float32 (M, 4)  rectangles in source pixels that the parts must cover
    areas    the looks in source pixels, if they are parts of the frame
    doubted  float32 (K, 4)  places where looks at parts of this frame may have missed an object, so
             that the whole look replaces them
    parts    these looks at parts
    """

    looks: tuple[Crop, ...]
    looked: Looked
    reason: Reason
    now_s: float
    cells: Cells | None = None
    change: DetectedChange | None = None
    places: FloatArray = field(default_factory=lambda: _NO_PLACES)
    areas: tuple[Area, ...] = ()
    doubted: FloatArray = field(default_factory=lambda: _NO_PLACES)
    parts: tuple[Crop, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """The settings of the plan for one detector.

    long_side  longer side of the network's input, pixels
    shown      0..1, mean score from which an object is shown
    """

    options: GateOptions
    long_side: int
    gate: GateSettings
    crops: CropSettings
    shown: float


def plan_looks(
    frame: CurrentFrame,
    picture: Picture,
    settings: PlanSettings,
    ignored: BoolArray | None = None,
) -> LookPlan:
    """Return the looks for a frame. A pure function.

    ignored  bool (tile_rows, tile_columns)  tiles whose changes are ignored
    """
    if settings.options.mode == "off":
        return whole_plan(frame, settings)
    grid = grid_of(*frame.size)
    cells = cells_of(picture, grid)
    before = frame.memory.gate
    change = changed_tiles.look(before, cells, grid, frame.key_frame, settings.gate, ignored)
    looked, reason, places = _choice(frame, change, settings)
    looks: tuple[Crop, ...] | None = ()
    if looked == "part":
        known = frame.memory.known.boxes.xyxy
        looks = crops.plan(places, known, frame.size, settings.long_side, settings.crops)
        if looks is None and reason == "age":
            # Together with the boxes that are due soon, it is too much: try without them.
            places = _aged(frame, settings, with_soon=False)
            looks = crops.plan(places, known, frame.size, settings.long_side, settings.crops)
        if looks is None:
            looked, reason = "whole", "too_much"
    if looked == "whole" or looks is None:
        looks = (crops.whole(*frame.size, settings.long_side),)
    areas: tuple[Area, ...] = ()
    if looked == "part":
        areas = _areas(looks, frame.size, settings.long_side)
    return LookPlan(looks, looked, reason, frame.now_s, cells, change, places, areas)


def _areas(looks: Sequence[Crop], size: tuple[int, int], long_side: int) -> tuple[Area, ...]:
    """Return the looks at a (width, height) picture in source pixels."""
    areas = []
    for look in looks:
        left, top, right, bottom = crops.looked_at(look, size, long_side).tolist()
        areas.append((round(left), round(top), round(right), round(bottom)))
    return tuple(areas)


def whole_after_parts(
    plan: LookPlan, doubted: FloatArray, frame: CurrentFrame, settings: PlanSettings
) -> LookPlan:
    """Return the plan of a whole look that replaces the looks of `plan` at parts of the frame.

    doubted  float32 (K, 4)  places where the parts may have missed an object
    """
    whole = crops.whole(*frame.size, settings.long_side)
    return replace(
        plan,
        looks=(whole,),
        looked="whole",
        reason="doubted",
        areas=(),
        doubted=doubted,
        parts=plan.looks,
    )


def whole_plan(frame: CurrentFrame, settings: PlanSettings) -> LookPlan:
    """Return the plan without a gate: one look at the whole frame."""
    whole = (crops.whole(*frame.size, settings.long_side),)
    return LookPlan(whole, "whole", "every_frame", frame.now_s)


def undecoded_plan(frame: CurrentFrame) -> LookPlan:
    """Return the plan for a frame without pixels: its source is calm, and was not decoded."""
    return LookPlan((), "no", "undecoded", frame.now_s)


def _choice(
    frame: CurrentFrame, change: DetectedChange, settings: PlanSettings
) -> tuple[Looked, Reason, FloatArray]:
    """Return how much of the frame to look at, the reason, and the places (M, 4) for a part.

    The checks are ordered by priority: the first that applies decides.
    """
    memory, options = frame.memory, settings.options
    reason_for_whole = _reason_for_whole(frame, change, options)
    if reason_for_whole is not None:
        return "whole", reason_for_whole, _NO_PLACES
    if change.moving:
        is_due = frame.now_s - memory.look_s >= _MOVING_PERIOD_S - _ROUNDING_S
        if is_due or _any_too_old(frame, settings):
            return "whole", "moving", _NO_PLACES
        return "no", "moving", _NO_PLACES
    changed = _NO_PLACES
    is_hot = np.count_nonzero(change.hot) > 0
    if is_hot:
        if _may_wait(frame, change, settings):
            return "no", "waiting", _NO_PLACES
        changed = crops.places_of(change.hot, change.state.grid.tile_px)
    too_old = _aged(frame, settings)
    if not is_hot and not len(memory.cut) and not len(too_old):
        return "no", "unchanged", _NO_PLACES
    places = np.concatenate([changed, memory.cut, too_old])
    reason: Reason = "changed"
    if len(places) == len(too_old):
        reason = "age"
    can_be_part = options.mode == "crops" and memory.trust >= _MIN_TRUST
    if can_be_part:
        return "part", reason, places
    return "whole", reason, places


def _reason_for_whole(
    frame: CurrentFrame, change: DetectedChange, options: GateOptions
) -> Reason | None:
    memory = frame.memory
    if memory.gate is None:
        return frame.begin_reason
    age_s = frame.now_s - memory.whole_s
    if age_s >= SHORTEST * options.frame_age_s:  # no drawn limit is shorter: skip the draw
        draw = (round(memory.whole_s * 1000),)
        if age_s >= age_limit(options.frame_age_s, frame.source_key, draw):
            return "frame_age"
    if change.exposure:
        return "exposure"
    return None


# -- Changes that may wait for a look, while their objects move along their tracks.

_UNKNOWN_WAIT_S: Final = 0.1  # the longest wait for a change outside known objects
_NEXT_TILES: Final = np.ones((3, 3), np.uint8)


def _may_wait(frame: CurrentFrame, change: DetectedChange, settings: PlanSettings) -> bool:
    """Return True if each changed tile is expected to change.

    A change is expected where objects with a known speed pass until the next frame, and, for a
    short time, beside the tiles that had changed at the last look. No change is expected at a box
    that the next look may publish: a new object needs two looks, so a wait after the first hides
    it.
    """
    memory, options = frame.memory, settings.options
    if not options.most or memory.waited >= options.wait_frames:
        return False
    period_s = frame.now_s - memory.clock_s
    if (memory.waited + 1) * period_s - _ROUNDING_S > memory.patience_s:
        return False
    next_s = frame.now_s + period_s
    wait_s = next_s - memory.look_s - _ROUNDING_S
    if wait_s > options.wait_s or _any_too_old(frame, settings):
        return False
    expected = swept_tiles(memory.known, frame.tracks, memory.waited, change.state.grid)
    if memory.watched.size and wait_s <= _UNKNOWN_WAIT_S:
        expected |= cv2.dilate(memory.watched.view(np.uint8), _NEXT_TILES).view(np.bool_)
    known = memory.known
    is_pending = (known.means == 0) & (known.boxes.scores > np.float32(settings.shown))
    if np.count_nonzero(is_pending):
        expected &= ~tiles_of(known.boxes.xyxy[is_pending], change.state.grid)
    return not np.count_nonzero(change.hot > expected)


# -- The age at which a known box needs another look.

_SOON: Final = 0.5  # share of the age limit from which a box joins a look that is due anyway
_UNSURE: Final = 0.04  # a mean this close to the lowest shown score may change sides


def _aged(frame: CurrentFrame, settings: PlanSettings, with_soon: bool = True) -> FloatArray:
    """Return the known boxes (M, 4) whose last look is too old.

    with_soon  if there are any, add the boxes that are due soon: one look at both is cheaper
    """
    memory, options = frame.memory, settings.options
    if _all_fresh(memory, frame.now_s, SHORTEST * options.object_age_s):
        return _NO_PLACES
    ages, max_ages = _ages_of(frame, settings)
    if not (ages >= SHORTEST * max_ages).any():
        return _NO_PLACES
    known = memory.known
    limits = max_ages.copy()
    seen_ms = np.rint(known.seen_s * 1000).astype(int)
    # A box that may be as old as the whole frame is seen with the whole frame: no draw for it.
    for row in np.flatnonzero(max_ages < options.frame_age_s).tolist():
        draw = (int(seen_ms[row]), int(known.ids[row]))
        limits[row] = age_limit(float(max_ages[row]), frame.source_key, draw)
    if not (ages >= limits).any():
        return _NO_PLACES
    if with_soon:
        limits = np.minimum(limits, _SOON * max_ages)
    old: FloatArray = known.boxes.xyxy[ages >= limits]
    return old


def _any_too_old(frame: CurrentFrame, settings: PlanSettings) -> bool:
    """Return True if a known box has reached its maximum age, so that no change may wait."""
    if _all_fresh(frame.memory, frame.now_s, settings.options.object_age_s):
        return False
    ages, max_ages = _ages_of(frame, settings)
    return bool((ages >= max_ages).any())


def _all_fresh(memory: SourceMemory, now_s: float, age_s: float) -> bool:
    """Return True if all boxes are younger than `age_s`: a cheap check before `_ages_of`."""
    return now_s - memory.known.oldest_s < age_s


def _ages_of(frame: CurrentFrame, settings: PlanSettings) -> tuple[DoubleArray, DoubleArray]:
    """Return the age of each known box since its last look, and its maximum age, in seconds.

    A box that has stayed in its place for a time is trusted for as long again, so the interval
    between looks at a still object doubles. A box whose mean is close to the lowest shown score
    keeps the shortest maximum. A box that is clearly not shown has no maximum.
    """
    known, options = frame.memory.known, settings.options
    is_shown = known.means > 0
    margin = np.where(is_shown, known.means, known.boxes.scores) - np.float32(settings.shown)
    longest = max(options.object_age_s, options.still_age_s)
    still_s = np.maximum(known.seen_s - known.since_s, options.object_age_s)
    max_ages = np.minimum(still_s, longest)
    max_ages[np.abs(margin) < _UNSURE] = options.object_age_s
    max_ages[~is_shown & (margin <= -_UNSURE)] = np.inf
    return frame.now_s - known.seen_s, max_ages


def gate_settings(options: GateOptions) -> GateSettings:
    """Return the gate's settings with the levels of the table `[gate]`."""
    return settings_of(options.least, options.most)


def limit_in_words(form: Form, options: GateOptions) -> str:
    """Return the gate's detection limit in pictures of this form (law 8)."""
    px, covers, levels, colour = limit_of(form.width, form.height, gate_settings(options))
    return (
        f"{levels[0]:g} to {levels[1]:g} of 255 grey levels, depending on the place, in the mean "
        f"of a {px}x{px} px square (colour: {colour[0]:g} to {colour[1]:g} in {2 * px}x{2 * px} "
        f"px); an object of {covers}x{covers} px contains such a square"
    )


def view_of(plan: LookPlan, form: Form, long_side: int) -> GateView | None:
    """Return the view of the gate for drawing; None without a gate."""
    if plan.change is None:
        return None
    state = plan.change.state
    grid, size = state.grid, (form.width, form.height)
    levels = np.clip(np.round(changed_tiles.sensitivity(state) * 10), 0, 255).astype(np.uint8)
    return GateView(
        columns=grid.tile_columns,
        rows=grid.tile_rows,
        tile=grid.tile_px,
        hot=np.packbits(plan.change.hot).tobytes(),
        looked=_areas(plan.looks, size, long_side),
        sensitivity=levels.tobytes(),
    )
