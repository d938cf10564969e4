"""What holds after a look: boxes merged, moved along, tracked, made calm; what the gate learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from framegate.models import boxes as nms
from framegate.models.boxes import BoolArray, Boxes, FloatArray, IndexArray, IntArray
from framegate.models.gate import crops, gate, seams
from framegate.models.gate.cells import Grid, tiles_of
from framegate.models.gate.seams import Merged
from framegate.models.gate.state import GateState
from framegate.models.tracking import bytetrack, calm
from framegate.models.tracking.bytetrack import TrackSettings, TrackState
from framegate.models.tracking.calm import CalmSettings, CalmState
from framegate.models.window.head import Step
from framegate.pipeline.records import Looked, Origin
from framegate.stages.detect.attention import (
    Attention,
    AttentionSettings,
    motion_of,
    patience_after,
)
from framegate.stages.detect.memory import MOST_BELIEVED, Believed, Memory

# -- What the gate learns from a look: what was seen where, and whether looking was worth it.


SAME_PLACE: Final = 0.8  # IoU from which on a box counts as unmoved


def learned(
    attention: Attention,
    known: Boxes,
    merged: Merged,
    size: tuple[int, int],
    using: AttentionSettings,
    shown: float,
) -> GateState | None:
    """The gate's state after the looks: what they saw where, and whether it was worth it."""
    if attention.change is None or attention.cells is None:
        return None
    state = attention.change.state
    inside: BoolArray = np.ones(state.grid.tiles, np.bool_)
    if attention.looked != "whole":
        areas = np.array([crops.looked_at(look, size, using.long_side) for look in attention.looks])
        inside = tiles_inside(areas, state.grid)
    found = _found_tiles(known, merged, inside, state.grid, shown)
    boxes = np.concatenate([known.xyxy, merged.boxes.xyxy])
    occupied: BoolArray = np.any(tiles_of(boxes, state.grid, grow_px=state.grid.tile_px), axis=0)
    return gate.inferred(state, attention.cells, inside, found, using.gate, occupied)


def tiles_inside(areas: FloatArray, grid: Grid) -> BoolArray:
    """Tiles that lie in one of the rectangles (K, 4) of source pixels, as far as the picture goes.

    bool (tile_rows, tile_columns)
    """
    px = grid.tile_px
    left, top = np.arange(grid.tile_columns) * px, np.arange(grid.tile_rows) * px
    right, bottom = np.minimum(left + px, grid.width), np.minimum(top + px, grid.height)
    inside: BoolArray = np.zeros(grid.tiles, np.bool_)
    for area in areas:
        across = (left >= area[0]) & (right <= area[2] + 0.5)
        down = (top >= area[1]) & (bottom <= area[3] + 0.5)
        inside |= down[:, None] & across
    return inside


def _found_tiles(
    known: Boxes, merged: Merged, inside: BoolArray, grid: Grid, shown: float
) -> BoolArray:
    """Tiles in which the look changed what is known: a box that is new, gone, or elsewhere."""
    before = known.scores > np.float32(shown)
    after = np.flatnonzero(merged.boxes.scores > np.float32(shown))
    rows = merged.known_row[after]
    stayed = rows >= 0
    stayed[stayed] = (
        nms.row_iou(known.xyxy[rows[stayed]], merged.boxes.xyxy[after[stayed]]) >= SAME_PLACE
    )
    before[rows[stayed]] = False
    changed = np.concatenate([known.xyxy[before], merged.boxes.xyxy[after[~stayed]]])
    found: BoolArray = tiles_of(changed, grid, grow_px=grid.tile_px).any(axis=0) & inside
    return found


_FOUND_AGAIN: Final = 0.1  # IoU from which on a known box was found again, if elsewhere
_SURE: Final = 0.9
_GAIN, _LOSS, _FORGIVES = 0.25, 0.25, 0.003
_NOWHERE: Final = np.empty((0, 4), np.float32)
_LEAST_SIDE: Final = 2.0  # pixels of a moved box that are still in the picture


Judge = Callable[[Merged, IntArray], Step]


@dataclass(frozen=True, slots=True)
class BeliefSettings:
    """How boxes become objects."""

    attention: AttentionSettings
    tracks: TrackSettings
    calm: CalmSettings


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """A frame's objects, and what the next frame starts from.

    shown    in source pixels, highest score first
    ids      int32 (N,)  tracks of the shown, 0 without one
    origins  of each
    age_s    of the oldest evidence: how long ago the whole frame was looked at
    window   what the head said, where one was asked
    """

    memory: Memory
    tracks: TrackState
    shown: Boxes
    ids: IntArray
    origins: tuple[Origin, ...]
    age_s: float
    window: Step | None = None


def conclude(
    memory: Memory,
    tracks: TrackState,
    attention: Attention,
    found: Sequence[Boxes],
    size: tuple[int, int],
    pts: float | None,
    settings: BeliefSettings,
    judge: Judge | None = None,
) -> Belief:
    """What holds once each look has `found` its boxes; `judge` rescores."""
    if not attention.looks:
        return _held(memory, tracks, attention, size, pts, settings.tracks)
    known = memory.believed
    merged, doubted = _merged(known.boxes, attention, found, size, memory.trust, settings)
    tracks, ids = bytetrack.step(tracks, merged.boxes, pts, settings.tracks)
    window = None if judge is None else judge(merged, ids)
    after, shown, rows = _calmed(memory, merged, ids, window, pts, settings.calm)
    now_s = attention.clock_s
    means = _means(shown, rows, len(ids))
    memory = Memory(
        pts=pts,
        clock_s=now_s,
        whole_s=now_s if attention.looked == "whole" else memory.whole_s,
        look_s=now_s,
        waited=0,
        patience=patience_after(memory, merged, means),
        believed=_believed(known, merged, ids, means, now_s),
        calm=after,
        cut=merged.cut,
        gate=learned(attention, known.boxes, merged, size, settings.attention, settings.calm.shown),
        watched=memory.watched if attention.change is None else attention.change.hot,
        trust=_trust(memory, merged, attention.looked, settings.calm.shown),
        doubted=doubted,
    )
    origins = _origins(merged.is_new[rows])
    return Belief(memory, tracks, shown, ids[rows], origins, now_s - memory.whole_s, window)


def _means(shown: Boxes, rows: IndexArray, n_boxes: int) -> FloatArray:
    means = np.zeros(n_boxes, np.float32)
    means[rows] = shown.scores
    return means


def _origins(is_new: BoolArray) -> tuple[Origin, ...]:
    return tuple("detected" if new else "carried" for new in is_new)


def _calmed(
    memory: Memory,
    merged: Merged,
    ids: IntArray,
    window: Step | None,
    pts: float | None,
    settings: CalmSettings,
) -> tuple[CalmState, Boxes, IndexArray]:
    """calm.step on those boxes that are evidence, with rows of all."""
    boxes = merged.boxes if window is None else window.boxes
    there = np.flatnonzero(boxes.scores >= np.float32(settings.candidate))
    after, shown, rows = calm.step(
        memory.calm, boxes.take(there), ids[there], merged.is_new[there], pts, settings
    )
    return after, shown, there[rows]


def _believed(
    known: Believed, merged: Merged, ids: IntArray, means: FloatArray, now_s: float
) -> Believed:
    """All boxes, with when each was last seen, and since when it has been found where it is."""
    seen_s, since_s = np.full((2, len(merged.boxes)), now_s)
    kept = ~merged.is_new
    seen_s[kept] = known.seen_s[merged.known_row[kept]]
    again = np.flatnonzero(merged.known_row >= 0)
    rows = merged.known_row[again]
    stays = ~merged.is_new[again]
    stays |= nms.row_iou(known.boxes.xyxy[rows], merged.boxes.xyxy[again]) >= SAME_PLACE
    since_s[again[stays]] = known.since_s[rows[stays]]
    believed = Believed(merged.boxes, seen_s, since_s, ids, means)
    return believed if len(ids) <= MOST_BELIEVED else believed.take(np.arange(MOST_BELIEVED))


def _held(
    memory: Memory,
    tracks: TrackState,
    attention: Attention,
    size: tuple[int, int],
    pts: float | None,
    settings: TrackSettings,
) -> Belief:
    """What holds where nobody looked: everything known, some of it a frame's motion further.

    That is no evidence for tracks, but one that just began is confirmed by what did not change.
    """
    believed, moved = _moved_along(memory.believed, attention, tracks, size)
    if attention.reason == "unchanged" and (tracks.ids == 0).any():
        tracks, ids = bytetrack.step(tracks, believed.boxes, pts, settings)
        believed = replace(believed, ids=ids)
    else:
        gone_on = set(believed.ids[moved].tolist())
        going = np.array([track in gone_on for track in tracks.ids.tolist()], np.bool_)
        tracks = bytetrack.coast(tracks, going, pts, settings)
    memory = replace(
        memory,
        pts=pts,
        clock_s=attention.clock_s,
        waited=memory.waited + 1 if attention.reason == "waiting" else 0,
        believed=believed,
        calm=replace(memory.calm, pts=tracks.pts),
        gate=None if attention.change is None else attention.change.state,
    )
    rows = believed.shown()
    boxes = believed.boxes
    shown = Boxes(boxes.xyxy[rows], believed.means[rows], boxes.class_ids[rows])
    origins: list[Origin] = ["moved" if has_moved else "carried" for has_moved in moved[rows]]
    age_s = attention.clock_s - memory.whole_s
    return Belief(memory, tracks, shown, believed.ids[rows], tuple(origins), age_s)


def _merged(
    known: Boxes,
    attention: Attention,
    found: Sequence[Boxes],
    size: tuple[int, int],
    trust: float,
    settings: BeliefSettings,
) -> tuple[Merged, FloatArray]:
    """Known and found boxes; and the places where a part may not have shown what is there.

    With less around it the network is less sure of what it sees. So where nothing changed, what it
    said before holds; and what it does not find again holds until the whole was looked at. So is
    it where something changed and nothing was found, unless parts have earned trust.
    """
    long_side, shown = settings.attention.long_side, np.float32(settings.calm.shown)
    if attention.looked == "whole":
        return seams.replaced(known, found[0]), _NOWHERE
    asked = attention.asked
    changed = np.concatenate([asked, _stirred(attention, size, long_side)])
    judged: BoolArray = np.any(crops.touch(known.xyxy, changed), axis=1)
    new = [
        boxes.take(np.flatnonzero(crops.touch(boxes.xyxy, changed).any(axis=1))) for boxes in found
    ]
    missed = judged & (known.scores > shown)
    empty = np.ones(len(asked), np.bool_)
    for boxes in new:
        same_class = known.class_ids[:, None] == boxes.class_ids[None, :]
        missed &= ~((nms.iou(known.xyxy, boxes.xyxy) > _FOUND_AGAIN) & same_class).any(axis=1)
        sure = boxes.xyxy[boxes.scores > shown]
        empty &= ~crops.touch(asked, sure).any(axis=1)
    merged = seams.merge(known, new, attention.looks, size, long_side, judged=judged & ~missed)
    if trust >= _SURE:
        empty[:] = False
    missed &= crops.touch(known.xyxy, asked).any(axis=1)
    return merged, np.concatenate([known.xyxy[missed], asked[empty]])


def _stirred(attention: Attention, size: tuple[int, int], long_side: int) -> FloatArray:
    """Places (M, 4) that the looks show and that began to change: after them, that is seen."""
    if attention.change is None:
        return _NOWHERE
    state = attention.change.state
    areas = np.array([crops.looked_at(look, size, long_side) for look in attention.looks])
    tiles = (state.above > 0).any(axis=0) & ~attention.change.hot & tiles_inside(areas, state.grid)
    return crops.places_of(tiles, state.grid.tile_px) if tiles.any() else _NOWHERE


def _trust(memory: Memory, merged: Merged, looked: Looked, shown: float) -> float:
    """How far parts of this source's frames can be trusted to show what is in them.

    A whole look after a doubted part tells.
    """
    if looked != "whole":
        return memory.trust
    if not len(memory.doubted):
        return memory.trust + _FORGIVES * (1 - memory.trust)
    there = merged.boxes.xyxy[merged.boxes.scores > np.float32(shown)]
    wrong = crops.touch(there, memory.doubted).any()
    return memory.trust * (1 - _LOSS) if wrong else memory.trust + _GAIN * (1 - memory.trust)


def _moved_along(
    believed: Believed, attention: Attention, tracks: TrackState, size: tuple[int, int]
) -> tuple[Believed, BoolArray]:
    """What is known, and which rows of it were moved: where something changed and nobody looks.

    They go as fast as the middle of their tracks and keep their size; what leaves the picture goes.
    """
    none = np.zeros(len(believed.ids), np.bool_)
    if attention.change is None or attention.reason == "unchanged":
        return believed, none
    touched = tiles_of(believed.boxes.xyxy, attention.change.state.grid)
    moved = (touched & attention.change.hot).any(axis=(1, 2)) & (believed.ids > 0)
    if not moved.any():
        return believed, moved
    speeds = np.where(moved[:, None], motion_of(believed, tracks).speeds, np.float32(0))
    limit = np.array(size * 2, np.float32)
    xyxy = np.clip(believed.boxes.xyxy + speeds, np.float32(0), limit)
    stays = (xyxy[:, 2:] - xyxy[:, :2] >= _LEAST_SIDE).all(axis=1) | ~moved
    since_s = np.where(moved, attention.clock_s, believed.since_s)
    boxes = Boxes(xyxy, believed.boxes.scores, believed.boxes.class_ids)
    at = Believed(boxes, believed.seen_s, since_s, believed.ids, believed.means)
    return (at, moved) if stays.all() else (at.take(stays), moved[stays])
