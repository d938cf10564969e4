"""What holds after a look: boxes merged with what was known, moved along, tracked, made calm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from models import bytetrack, calm, crops, gate, nms, seams
from models.boxes import Boxes, FloatArray, IntArray
from models.bytetrack import TrackSettings
from models.calm import CalmSettings
from models.cells import BoolArray, Grid, tiles_of
from models.gate_state import GateState
from models.seams import Merged
from models.track_state import TrackState
from pipeline.records import Looked, Origin
from stages.attention import Attention, AttentionSettings
from stages.memory import MOST_BELIEVED, Believed, Memory

_SAME_PLACE: Final = 0.8  # IoU from which on a box counts as unmoved
_FOUND_AGAIN: Final = 0.1  # IoU from which on a known box was found again, if elsewhere
_SURE: Final = 0.9
_GAIN, _LOSS, _FORGIVES = 0.25, 0.25, 0.003
_NOWHERE: Final = np.empty((0, 4), np.float32)
_LEAST_SIDE: Final = 2.0  # pixels of a moved box that are still in the picture


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
    """

    memory: Memory
    tracks: TrackState
    shown: Boxes
    ids: npt.NDArray[np.int32]
    origins: tuple[Origin, ...]
    age_s: float


def conclude(
    memory: Memory,
    tracks: TrackState,
    attention: Attention,
    found: Sequence[Boxes],
    size: tuple[int, int],
    pts: float | None,
    settings: BeliefSettings,
) -> Belief:
    """What holds once each of the attention's looks has `found` its boxes; a pure function."""
    known, moved = _moved_along(memory.believed, attention, tracks, size)
    merged, doubted = _merged(known.boxes, attention, found, size, memory.trust, settings)
    now_s = attention.clock_s
    if attention.looks:
        tracks, ids = bytetrack.step(tracks, merged.boxes, pts, settings.tracks)
    else:
        tracks, ids = _coasted(tracks, known.ids[moved], pts), known.ids[merged.known_row]
    after, shown, rows = calm.step(
        memory.calm, merged.boxes, ids, merged.is_new, pts, settings.calm
    )
    is_shown = np.zeros(len(ids), np.bool_)
    is_shown[rows] = True
    believed = Believed(merged.boxes, _seen_s(known, merged, now_s), ids, is_shown)
    state = _learned(attention, known.boxes, merged, size, settings)
    whole_s = now_s if attention.looked == "whole" else memory.whole_s
    watched = memory.watched
    if attention.looks and attention.change is not None:
        watched = attention.change.hot
    memory = Memory(
        clock_s=now_s,
        whole_s=whole_s,
        look_s=now_s if attention.looks else memory.look_s,
        waited=memory.waited + 1 if attention.reason == "waiting" else 0,
        believed=believed.take(np.arange(min(len(ids), MOST_BELIEVED))),
        calm=after,
        cut=merged.cut,
        gate=state,
        watched=watched,
        trust=_trust(memory, merged, attention.looked, settings.calm.shown),
        doubted=doubted,
    )
    origins = _origins(merged, moved, rows)
    return Belief(memory, tracks, shown, ids[rows], origins, now_s - whole_s)


def _coasted(tracks: TrackState, moved: IntArray, pts: float | None) -> TrackState:
    """The tracks a frame later that nobody looked at: no evidence, so only `moved` ones go on."""
    mean = tracks.mean.copy()
    rows = np.isin(tracks.ids, moved)
    mean[rows, :4] += mean[rows, 4:]
    latest = max((t for t in (tracks.pts, pts) if t is not None), default=None)
    return replace(tracks, pts=latest, mean=mean)


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
    if attention.looked != "part":
        return seams.merge(known, found, attention.looks, size, long_side), _NOWHERE
    asked = attention.asked
    judged: BoolArray = np.any(crops.touch(known.xyxy, asked), axis=1)
    new = [
        boxes.take(np.flatnonzero(crops.touch(boxes.xyxy, asked).any(axis=1))) for boxes in found
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
    return merged, np.concatenate([known.xyxy[missed], asked[empty]])


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


def _learned(
    attention: Attention,
    known: Boxes,
    merged: Merged,
    size: tuple[int, int],
    settings: BeliefSettings,
) -> GateState | None:
    """The gate's state after the looks: what they saw where, and whether it was worth it."""
    if attention.change is None or attention.cells is None:
        return None
    state = attention.change.state
    if not attention.looks:
        return state
    using = settings.attention
    areas = np.array([crops.looked_at(look, size, using.long_side) for look in attention.looks])
    inside = tiles_inside(areas, state.grid)
    found = _found_tiles(known, merged, inside, state.grid, settings.calm.shown)
    boxes = np.concatenate([known.xyxy, merged.boxes.xyxy])
    occupied: BoolArray = np.any(tiles_of(boxes, state.grid, grow_px=state.grid.tile_px), axis=0)
    return gate.inferred(state, attention.cells, inside, found, using.gate, occupied)


def tiles_inside(areas: npt.NDArray[np.float32], grid: Grid) -> BoolArray:
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


def _moved_along(
    believed: Believed, attention: Attention, tracks: TrackState, size: tuple[int, int]
) -> tuple[Believed, BoolArray]:
    """What is known, and which rows of it were moved: where something changed and nobody looks.

    They go as fast as the middle of their tracks and keep their size; what leaves the picture goes.
    """
    none = np.zeros(len(believed.ids), np.bool_)
    if attention.looks or attention.change is None or not len(none):
        return believed, none
    touched = tiles_of(believed.boxes.xyxy, attention.change.state.grid)
    moved = (touched & attention.change.hot).any(axis=(1, 2)) & (believed.ids > 0)
    middle = (tracks.mean[:, 4:6] + tracks.mean[:, 6:8]) / 2
    speeds = dict(zip(tracks.ids.tolist(), middle, strict=True))
    xyxy = believed.boxes.xyxy.copy()
    for row in np.flatnonzero(moved):
        xyxy[row] += np.tile(speeds.get(int(believed.ids[row]), np.zeros(2, np.float32)), 2)
    xyxy = np.clip(xyxy, np.float32(0), np.array(size * 2, np.float32))
    stays = (xyxy[:, 2:] - xyxy[:, :2] >= _LEAST_SIDE).all(axis=1) | ~moved
    at = replace(believed, boxes=replace(believed.boxes, xyxy=xyxy))
    return at.take(stays), moved[stays]


def _seen_s(believed: Believed, merged: Merged, now_s: float) -> npt.NDArray[np.float64]:
    seen_s = np.full(len(merged.boxes), now_s)
    kept = ~merged.is_new
    seen_s[kept] = believed.seen_s[merged.known_row[kept]]
    return seen_s


def _found_tiles(
    known: Boxes, merged: Merged, inside: BoolArray, grid: Grid, shown: float
) -> BoolArray:
    """Tiles in which the look changed what is known: a box that is new, gone, or elsewhere."""
    before = np.flatnonzero(known.scores > np.float32(shown))
    after = np.flatnonzero(merged.boxes.scores > np.float32(shown))
    stayed = {
        int(merged.known_row[row])
        for row in after
        if _stayed(known, merged.known_row[row], merged.boxes.xyxy[row])
    }
    gone = [row for row in before if int(row) not in stayed]
    come = [row for row in after if int(merged.known_row[row]) not in stayed]
    changed = np.concatenate([known.xyxy[gone], merged.boxes.xyxy[come]])
    found: BoolArray = tiles_of(changed, grid, grow_px=grid.tile_px).any(axis=0) & inside
    return found


def _stayed(known: Boxes, row: int, now: npt.NDArray[np.float32]) -> bool:
    if row < 0:
        return False
    before = known.xyxy[row]
    sides = np.minimum(before[2:], now[2:]) - np.maximum(before[:2], now[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(before[2:] - before[:2]) + np.prod(now[2:] - now[:2])) - both
    return both >= _SAME_PLACE * union


def _origins(merged: Merged, moved: BoolArray, rows: npt.NDArray[np.intp]) -> tuple[Origin, ...]:
    names: list[Origin] = []
    for row in rows:
        if merged.is_new[row]:
            names.append("detected")
        else:
            names.append("moved" if moved[merged.known_row[row]] else "carried")
    return tuple(names)
