"""Where to look in a frame: one decision, from what changed, what may wait, and what is too old."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, DoubleArray, FloatArray
from framegate.models.gate import crops, gate
from framegate.models.gate.cells import Cells, cells_of, grid_of
from framegate.models.gate.crops import Crop, CropSettings
from framegate.models.gate.gate import DEFAULT as GATE
from framegate.models.gate.gate import DetectedChange, limit_of
from framegate.models.gate.settings import GateSettings
from framegate.models.gate.state import SHORTEST, age_limit
from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import GateView, Looked, Reason
from framegate.pipeline.contracts.source import Form
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.detect.motion import swept_tiles
from framegate.stages.detect.options import GateOptions

_MOVING_PERIOD_S: Final = 1 / 15  # of whole passes while the camera moves
_ROUNDING_S: Final = 0.004
_LEAST_TRUST: Final = 0.6
_NO_PLACES: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class LookPlan:
    """What is to be done about a frame.

    looks    parts to give to the network; one of them may be the whole
    now_s    the source's clock at this frame
    cells    of the picture, and
    change   what the gate found; both None where no gate looks
    places   float32 (M, 4)  rectangles, in source pixels, that parts are looked at for
    """

    looks: tuple[Crop, ...]
    looked: Looked
    reason: Reason
    now_s: float
    cells: Cells | None = None
    change: DetectedChange | None = None
    places: FloatArray = field(default_factory=lambda: _NO_PLACES)


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Numbers behind GateOptions, for one detector.

    long_side  of the network's input
    shown      0..1, mean score from which on an object is shown
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
    """Return what to look at in `picture`; a pure function.

    ignored  tiles whose changes do not count, bool (tile_rows, tile_columns)
    """
    if settings.options.mode == "off":
        return whole_plan(frame, settings)
    grid = grid_of(*frame.size)
    cells = cells_of(picture, grid)
    change = gate.look(frame.memory.gate, cells, grid, frame.key_frame, settings.gate, ignored)
    looked, reason, places = _choice(frame, change, settings)
    looks: tuple[Crop, ...] | None = ()
    if looked == "part":
        known = frame.memory.known.boxes.xyxy
        looks = crops.plan(places, known, frame.size, settings.long_side, settings.crops)
        if looks is None and reason == "age":
            # With what will be too old soon it is too much: only with what is.
            places = _aged(frame, settings, with_soon=False)
            looks = crops.plan(places, known, frame.size, settings.long_side, settings.crops)
    if looked == "whole" or looks is None:
        reason = "too_much" if looks is None else reason
        looked, looks = "whole", (crops.whole(*frame.size, settings.long_side),)
    return LookPlan(looks, looked, reason, frame.now_s, cells, change, places)


def whole_plan(frame: CurrentFrame, settings: PlanSettings) -> LookPlan:
    """Return the plan for a frame that no gate compares: one look at the whole."""
    whole = (crops.whole(*frame.size, settings.long_side),)
    return LookPlan(whole, "whole", "every_frame", frame.now_s)


def _choice(
    frame: CurrentFrame, change: DetectedChange, using: PlanSettings
) -> tuple[Looked, Reason, FloatArray]:
    """Return how much to look at, why, and the places (M, 4) in source pixels for a part."""
    memory, options = frame.memory, using.options
    reason = _reason_for_whole(frame, change, options)
    if reason is not None:
        return "whole", reason, _NO_PLACES
    if change.moving:
        is_due = frame.now_s - memory.look_s >= _MOVING_PERIOD_S - _ROUNDING_S
        is_due |= _any_too_old(frame, using)
        return "whole" if is_due else "no", "moving", _NO_PLACES
    changed = _NO_PLACES
    is_hot = np.count_nonzero(change.hot)
    if is_hot:
        if _may_wait(frame, change, using):
            return "no", "waiting", _NO_PLACES
        changed = crops.places_of(change.hot, change.state.grid.tile_px)
    if len(memory.doubted):
        return "whole", "doubted", _NO_PLACES
    too_old = _aged(frame, using)
    if not is_hot and not len(memory.cut) and not len(too_old):
        return "no", "unchanged", _NO_PLACES
    places = np.concatenate([changed, memory.cut, too_old])
    why: Reason = "age" if len(places) == len(too_old) else "changed"
    can_be_part = options.mode == "crops" and memory.trust >= _LEAST_TRUST
    return "part" if can_be_part else "whole", why, places


def _reason_for_whole(
    frame: CurrentFrame, change: DetectedChange, options: GateOptions
) -> Reason | None:
    memory = frame.memory
    if memory.gate is None:
        return frame.anew
    age_s = frame.now_s - memory.whole_s
    if age_s >= SHORTEST * options.frame_age_s:  # before that it costs no draw
        drawn = (round(memory.whole_s * 1000),)
        if age_s >= age_limit(options.frame_age_s, frame.source_key, drawn):
            return "frame_age"
    return "exposure" if change.exposure else None


# -- Whether what changed may wait for its look while what is known goes on as its tracks tell.

_UNKNOWN_WAIT_S: Final = 0.1  # for what changes and is in no object
_NEXT_TILES: Final = np.ones((3, 3), np.uint8)


def _may_wait(frame: CurrentFrame, change: DetectedChange, using: PlanSettings) -> bool:
    """Return whether all that changed is known: objects whose motion can be told until the next
    frame, and what was looked at when it last changed, and is in none.
    """
    memory, options = frame.memory, using.options
    if not options.most or memory.waited >= min(options.wait_frames, int(memory.patience)):
        return False
    next_s = frame.now_s + (frame.now_s - memory.clock_s)
    waits_s = next_s - memory.look_s - _ROUNDING_S
    if waits_s > options.wait_s or _any_too_old(frame, using):
        return False
    expected = swept_tiles(memory.known, frame.tracks, memory.waited, change.state.grid)
    if memory.watched.size and waits_s <= _UNKNOWN_WAIT_S:
        expected |= cv2.dilate(memory.watched.view(np.uint8), _NEXT_TILES).view(np.bool_)
    return not np.count_nonzero(change.hot > expected)


# -- How old what is known may get before it is looked at again.

_SOON: Final = 0.5  # of the age at which a look is due: it is cheaper together
_UNSURE: Final = 0.04  # so near to the least score that is shown


def _aged(frame: CurrentFrame, using: PlanSettings, with_soon: bool = True) -> FloatArray:
    """Return the known boxes (M, 4) that were not seen for too long; if there is one, those too
    that soon will be.
    """
    memory, options = frame.memory, using.options
    if _all_fresh(memory, frame.now_s, SHORTEST * options.object_age_s):
        return _NO_PLACES
    ages, most = _ages_of(frame, using)
    if not (ages >= SHORTEST * most).any():
        return _NO_PLACES
    known = memory.known
    seen_ms, tracks = np.rint(known.seen_s * 1000).astype(int).tolist(), known.ids.tolist()
    limits = np.array(
        [
            age_limit(limit, frame.source_key, (seen, track)) if math.isfinite(limit) else limit
            for limit, seen, track in zip(most.tolist(), seen_ms, tracks, strict=True)
        ]
    )
    # What may be as old as the frame is seen with it.
    limits = np.where(most < options.frame_age_s, limits, most)
    if not (ages >= limits).any():
        return _NO_PLACES
    limits = np.minimum(limits, _SOON * most) if with_soon else limits
    old: FloatArray = known.boxes.xyxy[ages >= limits]
    return old


def _any_too_old(frame: CurrentFrame, using: PlanSettings) -> bool:
    """Return whether something was not seen for as long as it may be: then nothing waits."""
    if _all_fresh(frame.memory, frame.now_s, using.options.object_age_s):
        return False
    ages, most = _ages_of(frame, using)
    return bool((ages >= most).any())


def _all_fresh(memory: SourceMemory, now_s: float, age_s: float) -> bool:
    """Return whether all was looked at within the shortest age: then no ages are compared."""
    return now_s - memory.known.oldest_s < age_s


def _ages_of(frame: CurrentFrame, using: PlanSettings) -> tuple[DoubleArray, DoubleArray]:
    """Return of each known box the seconds since it was looked at, and the most that may be.

    What was found where it is for some time is trusted for as long again, so the time between two
    looks at what stands still doubles; but not where its score leaves in doubt whether it is shown.
    For what is surely not shown there is no limit.
    """
    known, options = frame.memory.known, using.options
    is_shown = known.means > 0
    margin = np.where(is_shown, known.means, known.boxes.scores) - np.float32(using.shown)
    longest = max(options.object_age_s, options.still_age_s)
    stood_s = np.maximum(known.seen_s - known.since_s, options.object_age_s)
    most = np.minimum(stood_s, longest)
    most[np.abs(margin) < _UNSURE] = options.object_age_s
    most[~is_shown & (margin <= -_UNSURE)] = np.inf
    return frame.now_s - known.seen_s, most


def gate_settings(options: GateOptions) -> GateSettings:
    """Return the gate's numbers with the levels of `[gate]`."""
    first = min(max(GATE.tau_first, options.least), options.most)
    return replace(GATE, tau_first=first, tau_least=options.least, tau_most=options.most)


def limit_in_words(form: Form, options: GateOptions) -> str:
    """Return the gate's detection limit in pictures of this form (law 8)."""
    px, covers, levels, colour = limit_of(form.width, form.height, gate_settings(options))
    return (
        f"what changes the mean of a {px}x{px} px square of the grid by less than its tile's "
        f"threshold, {levels[0]:g} to {levels[1]:g} grey levels (colour: {2 * px}x{2 * px} px, "
        f"{colour[0]:g} to {colour[1]:g}); what covers {covers}x{covers} px covers such a square"
    )


def view_of(plan: LookPlan, form: Form, long_side: int) -> GateView | None:
    """Return what the gate saw, for whoever draws it; None where no gate looked."""
    if plan.change is None:
        return None
    state = plan.change.state
    grid, size = state.grid, (form.width, form.height)
    areas = [crops.looked_at(look, size, long_side) for look in plan.looks]
    levels = np.clip(np.round(gate.sensitivity(state) * 10), 0, 255).astype(np.uint8)
    return GateView(
        columns=grid.tile_columns,
        rows=grid.tile_rows,
        tile=grid.tile_px,
        hot=np.packbits(plan.change.hot).tobytes(),
        looked=tuple((round(a), round(b), round(c), round(d)) for a, b, c, d in np.array(areas)),
        sensitivity=levels.tobytes(),
    )
