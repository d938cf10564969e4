"""A look at a frame and the estimate after it: boxes are merged, tracked and made calm.

The gate then learns from the look: its thresholds, how long changes may wait, and how far parts of
a frame can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from framegate.models import boxes as nms
from framegate.models.boxes import BoolArray, Boxes, FloatArray, IndexArray, IntArray
from framegate.models.detector.answer_cache import Recall
from framegate.models.detector.detector import Detector
from framegate.models.detector.policy import Policy
from framegate.models.gate import crops, gate, merge
from framegate.models.gate.cells import Grid, tiles_inside, tiles_of
from framegate.models.gate.crops import DEFAULT as CROPS
from framegate.models.gate.merge import Merged
from framegate.models.gate.state import GateState
from framegate.models.picture import Picture
from framegate.models.tracking import bytetrack, calm, thresholds
from framegate.models.tracking.bytetrack import TrackSettings, TrackState
from framegate.models.tracking.calm import CalmSettings, CalmState
from framegate.pipeline.contracts.results import Origin
from framegate.stages.detect.look_plan import LookPlan, PlanSettings, gate_settings, plan_looks
from framegate.stages.detect.memory import (
    MOST_KNOWN,
    SAME_PLACE,
    CurrentFrame,
    KnownBoxes,
    SourceMemory,
)
from framegate.stages.detect.motion import move_along
from framegate.stages.detect.options import GateOptions

_FOUND_AGAIN: Final = 0.1  # IoU from which on a known box was found again, if elsewhere
_FOUND_AS_OTHER: Final = 0.5  # the same, taken for something else
_SURE: Final = 0.9  # trust from which on a part that shows nothing is believed
_NOWHERE: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class EstimateSettings:
    """Everything that decides about a frame: where to look, and how boxes become objects."""

    plan: PlanSettings
    tracks: TrackSettings
    calm: CalmSettings


def settings_for(
    options: GateOptions, choices: Policy, min_score: float | None = None, whole: bool = False
) -> EstimateSettings:
    """Return all that decides, for the detector of `choices` and the least score of a user.

    whole  it looks at whole frames only, as several networks together do
    """
    if whole and options.mode == "crops":
        options = replace(options, mode="frames")
    shown = choices.min_score if min_score is None else min_score
    calm, tracks = thresholds.settings_for(shown, exactly=min_score is not None)
    # Without parts no size but the whole's is warmed up.
    parts = CROPS if options.mode == "crops" else replace(CROPS, share=0.0)
    plan = PlanSettings(options, choices.parts[0][1], gate_settings(options), parts, calm.shown)
    return EstimateSettings(plan, tracks, calm)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A frame's objects, and what the next frame starts from.

    shown    in source pixels, highest score first
    ids      int32 (N,)  tracks of the shown, 0 without one
    origins  of each
    age_s    of the oldest evidence: how long ago the whole frame was looked at
    """

    memory: SourceMemory
    tracks: TrackState
    shown: Boxes
    ids: IntArray
    origins: tuple[Origin, ...]
    age_s: float


def look_at(
    detector: Detector,
    frame: CurrentFrame,
    picture: Picture,
    settings: EstimateSettings,
    ignored: BoolArray | None = None,
    recall: Recall | None = None,
) -> tuple[LookPlan, Estimate]:
    """Return what was computed anew of a frame, and what is to be seen in it; a pure function.

    ignored  tiles whose changes do not count, bool (tile_rows, tile_columns)
    recall   where answers of the network are looked up

    The detector's own threshold must be the calm rule's `candidate`.
    """
    plan = plan_looks(frame, picture, settings.plan, ignored)
    found = run_looks(detector, picture, plan, recall)
    return plan, conclude(frame, plan, found, settings)


def run_looks(
    detector: Detector, picture: Picture, plan: LookPlan, recall: Recall | None
) -> Sequence[Boxes]:
    """Return what the detector finds at each of the looks."""
    if plan.looked == "whole":
        return detector.detect([picture], [recall])
    return detector.look(picture, plan.looks, recall) if plan.looks else ()


def conclude(
    frame: CurrentFrame,
    plan: LookPlan,
    found: Sequence[Boxes],
    settings: EstimateSettings,
) -> Estimate:
    """Return the estimate after each look has `found` its boxes.

    Merge, track, calm; then learn from it, which needs to know how it ended.
    """
    if not plan.looks:
        return _held(frame, plan, settings.tracks)
    memory, now_s = frame.memory, plan.now_s
    merged, doubted = _merged(frame, plan, found, settings)
    tracks, ids = bytetrack.step(
        frame.tracks, merged.boxes, frame.pts, settings.tracks, merged.is_new
    )
    names = tracks.named(ids, merged.boxes.class_ids)
    merged = Merged(merged.boxes.named(names), merged.is_new, merged.known_row, merged.cut)
    calm_state, shown, rows = _calmed(frame, merged.boxes, ids, merged.is_new, settings.calm)
    means = np.zeros(len(ids), np.float32)
    means[rows] = shown.scores
    learned = learn(frame, plan, merged, means, settings.plan)
    after = SourceMemory(
        pts=frame.pts,
        clock_s=now_s,
        whole_s=now_s if plan.looked == "whole" else memory.whole_s,
        look_s=now_s,
        waited=0,
        patience=learned.patience,
        known=_known_after(memory.known, merged, ids, means, now_s),
        calm=calm_state,
        cut=merged.cut,
        gate=learned.gate,
        watched=memory.watched if plan.change is None else plan.change.hot,
        trust=learned.trust,
        doubted=doubted,
    )
    origins: list[Origin] = ["detected" if new else "carried" for new in merged.is_new[rows]]
    age_s = now_s - after.whole_s
    return Estimate(after, tracks, shown, ids[rows], tuple(origins), age_s)


def _merged(
    frame: CurrentFrame, plan: LookPlan, found: Sequence[Boxes], settings: EstimateSettings
) -> tuple[Merged, FloatArray]:
    """Return known and found boxes; and places where a part may not have shown what is there.

    With less around it the network is less sure of what it sees. So where nothing changed, what it
    said before holds; and what it does not find again holds until the whole was looked at. So is
    it where something changed and nothing was found, unless parts have earned trust.
    """
    known = frame.memory.known.boxes
    if plan.looked == "whole":
        return merge.replaced(known, found[0]), _NOWHERE
    long_side, shown = settings.plan.long_side, np.float32(settings.calm.shown)
    changed = np.concatenate([plan.places, _stirred(frame, plan, long_side)])
    judged: BoolArray = np.any(crops.touch(known.xyxy, changed), axis=1)
    new = [
        boxes.take(np.flatnonzero(crops.touch(boxes.xyxy, changed).any(axis=1))) for boxes in found
    ]
    missed = judged & (known.scores > shown)
    empty = np.ones(len(plan.places), np.bool_)
    for boxes in new:
        is_other = known.class_ids[:, None] != boxes.class_ids[None, :]
        least = np.where(is_other, _FOUND_AS_OTHER, _FOUND_AGAIN)
        missed &= ~(nms.iou(known.xyxy, boxes.xyxy) > least).any(axis=1)
        sure = boxes.xyxy[boxes.scores > shown]
        empty &= ~crops.touch(plan.places, sure).any(axis=1)
    merged = merge.merge(known, new, plan.looks, frame.size, long_side, judged=judged & ~missed)
    if frame.memory.trust >= _SURE:
        empty[:] = False
    missed &= crops.touch(known.xyxy, plan.places).any(axis=1)
    return merged, np.concatenate([known.xyxy[missed], plan.places[empty]])


def _stirred(frame: CurrentFrame, plan: LookPlan, long_side: int) -> FloatArray:
    """Return places (M, 4) that the looks show and that began to change: now they are seen."""
    if plan.change is None:
        return _NOWHERE
    state = plan.change.state
    areas = np.array([crops.looked_at(look, frame.size, long_side) for look in plan.looks])
    tiles = (state.above > 0).any(axis=0) & ~plan.change.hot & tiles_inside(areas, state.grid)
    return crops.places_of(tiles, state.grid.tile_px) if tiles.any() else _NOWHERE


def _calmed(
    frame: CurrentFrame, boxes: Boxes, ids: IntArray, is_new: BoolArray, settings: CalmSettings
) -> tuple[CalmState, Boxes, IndexArray]:
    """Return calm.step of those boxes that are evidence, with rows of all."""
    there = np.flatnonzero(boxes.scores >= np.float32(settings.candidate))
    after, shown, rows = calm.step(
        frame.memory.calm, boxes.take(there), ids[there], is_new[there], frame.pts, settings
    )
    return after, shown, there[rows]


def _known_after(
    known: KnownBoxes, merged: Merged, ids: IntArray, means: FloatArray, now_s: float
) -> KnownBoxes:
    """Return all boxes, with when each was last seen, and since when it has been found there."""
    seen_s, since_s = np.full((2, len(merged.boxes)), now_s)
    kept = ~merged.is_new
    seen_s[kept] = known.seen_s[merged.known_row[kept]]
    again = np.flatnonzero(merged.known_row >= 0)
    rows = merged.known_row[again]
    stays = ~merged.is_new[again]
    stays |= nms.row_iou(known.boxes.xyxy[rows], merged.boxes.xyxy[again]) >= SAME_PLACE
    since_s[again[stays]] = known.since_s[rows[stays]]
    after = KnownBoxes(merged.boxes, seen_s, since_s, ids, means)
    return after if len(ids) <= MOST_KNOWN else after.take(np.arange(MOST_KNOWN))


def _held(frame: CurrentFrame, plan: LookPlan, settings: TrackSettings) -> Estimate:
    """Return what holds where nobody looked: all that is known, some of it a frame further.

    That is no evidence for tracks, but one that just began is confirmed by what did not change.
    """
    memory, tracks, known = frame.memory, frame.tracks, frame.memory.known
    moved: BoolArray | None = None
    if plan.change is not None and plan.reason != "unchanged":
        known, moved = move_along(known, tracks, plan.change, frame.size, plan.now_s)
    if plan.reason == "unchanged" and not tracks.are_named:
        nobody = np.zeros(len(known.ids), np.bool_)
        tracks, ids = bytetrack.step(tracks, known.boxes, frame.pts, settings, nobody)
        known = replace(known, ids=ids)
    else:
        going = None if moved is None else _tracks_of(known.ids[moved], tracks)
        tracks = bytetrack.coast(tracks, going, frame.pts, settings)
    gate = None if plan.change is None else plan.change.state
    is_waiting, calm = plan.reason == "waiting", memory.calm.at(tracks.pts)
    after = memory.held(frame.pts, plan.now_s, is_waiting, known, calm, gate)
    shown = known.shown
    age_s = plan.now_s - memory.whole_s
    origins = shown.carried
    if moved is not None:
        origins = tuple("moved" if moved[row] else "carried" for row in shown.rows.tolist())
    return Estimate(after, tracks, shown.boxes, shown.ids, origins, age_s)


def _tracks_of(ids: IntArray, tracks: TrackState) -> BoolArray:
    """Return which tracks have one of these ids."""
    wanted = set(ids.tolist())
    return np.array([track in wanted for track in tracks.ids.tolist()], np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class MemoryUpdate:
    """As SourceMemory has them."""

    gate: GateState | None
    patience: float
    trust: float


def learn(
    frame: CurrentFrame, plan: LookPlan, merged: Merged, means: FloatArray, settings: PlanSettings
) -> MemoryUpdate:
    """Return what the looks of `plan` taught.

    merged  what holds after them; means  float32 (N,), as in KnownBoxes
    """
    return MemoryUpdate(
        gate=_gate_after(frame, plan, merged, settings),
        patience=patience_after(frame.memory, merged, means),
        trust=_trust_after(frame.memory, plan, merged, settings.shown),
    )


def _gate_after(
    frame: CurrentFrame, plan: LookPlan, merged: Merged, using: PlanSettings
) -> GateState | None:
    """Return the gate's state after the looks: what they saw where, and whether it was worth it."""
    if plan.change is None or plan.cells is None:
        return None
    state, known = plan.change.state, frame.memory.known.boxes
    inside: BoolArray = np.ones(state.grid.tiles, np.bool_)
    if plan.looked != "whole":
        areas = [crops.looked_at(look, frame.size, using.long_side) for look in plan.looks]
        inside = tiles_inside(np.array(areas), state.grid)
    found = _found_tiles(known, merged, inside, state.grid, using.shown)
    boxes = np.concatenate([known.xyxy, merged.boxes.xyxy])
    occupied = tiles_of(boxes, state.grid, grow_px=state.grid.tile_px)
    return gate.inferred(state, plan.cells, inside, found, using.gate, occupied)


def _found_tiles(
    known: Boxes, merged: Merged, inside: BoolArray, grid: Grid, shown: float
) -> BoolArray:
    """Return the tiles in which the look changed what is known: a box is new, gone, elsewhere."""
    before = known.scores > np.float32(shown)
    after = np.flatnonzero(merged.boxes.scores > np.float32(shown))
    rows = merged.known_row[after]
    stayed = rows >= 0
    stayed[stayed] = (
        nms.row_iou(known.xyxy[rows[stayed]], merged.boxes.xyxy[after[stayed]]) >= SAME_PLACE
    )
    before[rows[stayed]] = False
    changed = np.concatenate([known.xyxy[before], merged.boxes.xyxy[after[~stayed]]])
    found: BoolArray = tiles_of(changed, grid, grow_px=grid.tile_px) & inside
    return found


# How much of what is shown a look must find as it was held, for changes to wait a frame longer than
# they just did, and below which they wait half as long.
_GOOD: Final = 0.92
_BAD: Final = 0.87


def patience_after(memory: SourceMemory, merged: Merged, means: FloatArray) -> float:
    """Return the frames for which changes may wait from now on: by how well what held meanwhile
    was found.

    memory  before the look

    Rises by a frame at a time, and only over what was tried; halves.
    """
    waited, known = memory.waited, memory.known
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


_GAIN, _LOSS, _FORGIVES = 0.25, 0.25, 0.003


def _trust_after(memory: SourceMemory, plan: LookPlan, merged: Merged, shown: float) -> float:
    """Return how far parts of this source's frames can be trusted to show what is in them.

    A whole look after a doubted part tells.
    """
    if plan.looked != "whole":
        return memory.trust
    if not len(memory.doubted):
        return memory.trust + _FORGIVES * (1 - memory.trust)
    there = merged.boxes.xyxy[merged.boxes.scores > np.float32(shown)]
    wrong = crops.touch(there, memory.doubted).any()
    return memory.trust * (1 - _LOSS) if wrong else memory.trust + _GAIN * (1 - memory.trust)
