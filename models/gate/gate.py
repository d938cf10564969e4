"""The change gate: which tiles differ from what the detector last saw there; what it learns.

A tile is compared with its content at its last *inference*, never with the previous frame, so that
what changes slowly is seen as well. What is skipped has a stated bound, `sensitivity`: a change of
the mean of a cell by that many levels, in Y, Cb or Cr, makes its tile hot within two looks.
Thresholds are learned for each tile from triggers that the detector found empty, as few as a budget
for the whole picture allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, FloatArray
from framegate.models.errors import ArrayMismatch
from framegate.models.gate.camera_motion import watch
from framegate.models.gate.cells import (
    Cells,
    Grid,
    cells_of_tiles,
    grid_of,
    luma_of,
    tile_maxima,
)
from framegate.models.gate.exposure import SAME, Exposure, distance, fit
from framegate.models.gate.settings import DEFAULT as DEFAULT
from framegate.models.gate.settings import GateSettings
from framegate.models.gate.state import AT_ONCE, HOT, NEVER, GateState
from framegate.models.picture import ByteArray

_MOST: Final = np.uint8(250)  # where counters of looks stop
_AVERAGED: Final = np.uint8(7)  # looks after an inference that make the reference better
_COMPENSATED: Final = 1.25  # levels of rounding that compensating the exposure adds


@dataclass(frozen=True, slots=True, eq=False)
class DetectedChange:
    """What one look said.

    hot       bool (tile_rows, tile_columns)  must be looked at by the detector
    moving    the camera moves or refocuses: little is gained by looking at parts
    exposure  the exposure left its bound: look at the whole picture once
    state     go on with it
    """

    hot: BoolArray
    moving: bool
    exposure: bool
    state: GateState


def look(
    state: GateState | None,
    cells: Cells,
    grid: Grid,
    key_frame: bool,
    settings: GateSettings = DEFAULT,
    ignored: BoolArray | None = None,
) -> DetectedChange:
    """Compare a frame with what the detector last saw; before any inference on it.

    `state` is None at first and when the size changed. `ignored` are tiles that never are hot. A
    tile that no network looked at is hot. Pure: the same bits from equal input. Raises
    ArrayMismatch.
    """
    if cells.grid != grid:
        raise ArrayMismatch("cells", f"{grid}", f"{cells.grid}")
    if state is None or state.grid != grid:
        state = _first(cells, settings)
    exposure, reference, age, apart = _compared(state, cells, key_frame, settings)
    changed, above = _above(state, apart, settings)
    hot = age >= NEVER
    if changed is not None or above is not state.above:
        hot |= np.maximum(above[0], above[1]) >= HOT
    watched = None
    if ignored is not None:
        watched = ~ignored
        hot &= watched
        above = np.where(ignored, np.uint8(0), above)
    before = luma_of(reference, grid)
    motion = watch(state.motion, changed, before, cells.y, state.bound[0], watched, settings)
    state = state.looked(reference, above, age, motion, exposure)
    return DetectedChange(hot, motion.moving, _left_bound(exposure, settings), state)


def inferred(
    state: GateState,
    cells: Cells,
    looked: BoolArray,
    found: BoolArray,
    settings: GateSettings = DEFAULT,
    occupied: BoolArray | None = None,
) -> GateState:
    """Return the state after the detector saw these cells in the tiles `looked`.

    found  tiles of those in which its boxes changed

    All three are bool (tile_rows, tile_columns); `occupied` are the tiles of known objects. `state`
    is that of the look at the same frame. Raises ArrayMismatch.
    """
    tau, floor = state.tau, state.floor
    if not _left_bound(state.exposure, settings):
        empty = (state.above >= HOT) & (looked & ~found)
        floor = _picture_learned(state, empty, occupied, settings)
        if not (state.motion.restless or state.motion.moving):
            tau = _tiles_learned(state, empty, settings)
    exposure = state.exposure
    if looked.all():
        origin = reference = cells.levels
        exposure = SAME
    else:
        mask = cells_of_tiles(looked, state.grid).view(np.bool_)
        levels = exposure.inverse.apply(cells.levels, state.grid)
        origin = np.where(mask, levels, state.origin)
        reference = np.where(mask, levels, state.reference)
    return GateState(
        state.grid,
        origin,
        reference,
        tau,
        above=np.where(looked, np.uint8(0), state.above),
        age=np.where(looked, np.uint8(0), state.age),
        floor=floor,
        looks=0,
        motion=state.motion,
        exposure=exposure,
    )


def sensitivity(state: GateState) -> FloatArray:
    """Return the stated bound, float32 (tile_rows, tile_columns), in levels of a cell's mean.

    A noise-free change of at least this much in Y, Cb or Cr, beside what the exposure explains, is
    hot at the second look at the latest, whatever key frames came since the last inference. While
    the exposure is compensated, rounding adds to the bound. A bound may rise between two looks:
    what then is below it must wait for the maximum age.
    """
    added = np.float32(0 if state.exposure.same else _COMPENSATED)
    bound: FloatArray = state.bound.max(0) + added
    return bound


class Limit(NamedTuple):
    """What is looked at within two frames, in pictures of one size: the mean of a square of the
    grid changes by the threshold of its tile.

    square_px  side of such a square, for Y; for Cb and Cr it is twice that in pixels of the picture
    covers_px  what covers a square of so many pixels a side covers one of the grid for Y, wherever
               it lies
    levels     the least and the most that a threshold may be; colour  the same for Cb and Cr
    """

    square_px: int
    covers_px: int
    levels: tuple[float, float]
    colour: tuple[float, float]


def limit_of(width: int, height: int, settings: GateSettings = DEFAULT) -> Limit:
    """Return the detection limit in pictures of this size; `sensitivity` is that of each tile now.

    Raises ArrayMismatch for an empty picture.
    """
    cell = grid_of(width, height).cell
    (luma, colour), (most_luma, most_colour) = (limit.tolist() for limit in settings.limits)
    return Limit(cell, 2 * cell - 1, (luma, most_luma), (colour, most_colour))


def _first(cells: Cells, settings: GateSettings) -> GateState:
    tiles = cells.grid.tiles
    tau = np.empty((2, *tiles), np.float32)
    tau[0], tau[1] = settings.limits[0]
    above = np.zeros((2, *tiles), np.uint8)
    age = np.full(tiles, NEVER, np.uint8)
    floor = settings.tau_first, settings.tau_first * settings.colour
    return GateState(cells.grid, cells.levels, cells.levels, tau, above, age, floor)


def _compared(
    state: GateState, cells: Cells, key_frame: bool, settings: GateSettings
) -> tuple[Exposure, ByteArray, ByteArray, ByteArray]:
    """Return exposure, reference and its age from now on, and the difference of each cell.

    On a key frame the reference moves before it is compared, else after that.
    """
    now, grid = cells.levels, cells.grid
    reference, age = state.reference, state.age
    apart = distance(reference, now)
    exposure = fit(luma_of(reference, grid), cells.y, luma_of(apart, grid))
    expected = exposure.apply(reference, grid)
    if key_frame:
        reference = _nearer(reference, expected, now, state.reach(settings.anchor))
        expected = exposure.apply(reference, grid)
        age = np.where(age == NEVER, age, np.uint8(0))
    if expected is not state.reference:
        apart = distance(expected, now)
    fresh = age < _AVERAGED
    if count := np.count_nonzero(fresh):
        moving = None if count == fresh.size else cells_of_tiles(fresh, grid)
        reference = _a_level_nearer(reference, expected, now, state.reach(settings.anchor), moving)
        age = age + fresh.view(np.uint8)
    return exposure, reference, age, apart


def _above(
    state: GateState, apart: ByteArray, settings: GateSettings
) -> tuple[BoolArray | None, ByteArray]:
    """Return which tiles changed, None where none did; and for how many looks each was over its
    threshold in each plane.

    apart  uint8 (grid.cells,)  by how many levels each cell differs
    """
    levels = state.levels(settings)
    luma = state.grid.luma[0] * state.grid.luma[1]
    is_over = apart[:luma].max() >= levels.lowest[0] or apart[luma:].max() >= levels.lowest[1]
    was_over = np.count_nonzero(state.above)
    if not is_over and not was_over:  # so two numbers tell it of most frames
        return None, state.above
    change = tile_maxima(apart, state.grid)
    over: Any = change >= levels.over
    if not was_over and not np.count_nonzero(over):
        return None, state.above
    above: ByteArray = np.minimum(state.above, _MOST) + over
    above[change < levels.calm] = 0
    above[change >= levels.at_once] = AT_ONCE
    over &= levels.counts
    return np.logical_or(over[0], over[1]), above


def _left_bound(exposure: Exposure, settings: GateSettings) -> bool:
    gain = abs(exposure.gain - 1)
    return gain > settings.exposure_gain or abs(exposure.shift) > settings.exposure_shift


# -- A reference that follows noise and key frames, yet only so far from where it was anchored.


def _nearer(
    reference: ByteArray, expected: ByteArray, now: ByteArray, reach: tuple[ByteArray, ByteArray]
) -> ByteArray:
    """Return the reference moved by what came over the expected, yet within its reach.

    All uint8 (n,): cells as they were remembered, what became of them, that is how they should look
    at today's exposure, and how they look; the least and the most that they may become. Since a
    reference stays near its origin in total, no number of key frames or looks can carry it away.
    """
    moved = np.empty_like(reference)
    cv2.add(reference, _above_by(now, expected), moved)  # saturates, as what follows
    cv2.subtract(moved, _above_by(expected, now), moved)
    np.maximum(moved, reach[0], out=moved)
    return np.minimum(moved, reach[1], out=moved)


def _a_level_nearer(
    reference: ByteArray,
    expected: ByteArray,
    now: ByteArray,
    reach: tuple[ByteArray, ByteArray],
    moving: ByteArray | None,
) -> ByteArray:
    """As `_nearer`, by one level at most; moving, uint8 (n,): 1 in cells that move (None: in all).

    So a reference goes to the median of what it sees (sigma-delta estimation, Manzanera and
    Richefeu 2004).
    """
    up, down = now > expected, expected > now
    up &= reach[1] > reference
    down &= reference > reach[0]
    if moving is not None:
        up &= moving.view(np.bool_)
        down &= moving.view(np.bool_)
    moved: ByteArray = reference + up.view(np.uint8)
    moved -= down.view(np.uint8)
    return moved


def _above_by(more: ByteArray, less: ByteArray) -> ByteArray:
    """Return how much `more` is above `less` in levels; 0 where it is not."""
    out = np.empty_like(more)
    cv2.subtract(more, less, out)
    return out


# -- What the gate learns from triggers in which the detector found nothing new. A threshold rises
# with each of them and sinks with time, so that it settles where they are as rare as the budget
# wants. Learning from all that is seen would not do: a slow change would pass as noise.


_AROUND: Final = (3, 3)  # a tile and those beside it


def _tiles_learned(state: GateState, empty: BoolArray, settings: GateSettings) -> FloatArray:
    """Return each tile's own thresholds, float32 (2, tile_rows, tile_columns).

    empty  bool (2, tile_rows, tile_columns)  hot in luma or colour, looked at, nothing was found

    They sink by a tile's part of the budget: hardly in an hour.
    """
    least, most = (limit.reshape(2, 1, 1) for limit in settings.limits)
    sinks = -settings.eta * settings.false_triggers * state.looks / empty[0].size
    tau = np.where(empty, state.bound * np.exp(settings.eta), state.tau * np.exp(sinks))
    learned: FloatArray = np.minimum(np.maximum(tau, least), most).astype(np.float32, copy=False)
    return learned


def _picture_learned(
    state: GateState, empty: BoolArray, occupied: BoolArray | None, settings: GateSettings
) -> tuple[float, float]:
    """Return the floor under all thresholds: it follows noise that is everywhere, as at nightfall.

    empty     as for `_tiles_learned`
    occupied  bool (tile_rows, tile_columns)  tiles of known objects, which may stir at any time

    Noise shows in tiles that trigger alone, little over the threshold and had not learned more than
    the floor; or everywhere.
    """
    floor = np.array(state.floor)
    fresh = empty & (state.tau <= floor.reshape(2, 1, 1))
    if occupied is not None:
        fresh &= ~occupied
    motion = state.motion
    if not motion.noisy and (motion.moving or motion.restless):
        fresh[:] = False
    elif fresh.any() and not motion.noisy:
        fresh &= (state.above < AT_ONCE) & _alone(state.above >= HOT)
    budget = settings.false_triggers * state.looks / len(floor)
    rises = settings.floor_eta * (fresh.any((1, 2)) - budget)
    least, most = settings.limits
    floor = np.minimum(np.maximum(floor * np.exp(rises), least), most)
    return float(floor[0]), float(floor[1])


def _alone(hot: BoolArray) -> BoolArray:
    """Of hot tiles those with no other beside them, in each plane."""
    counts = [
        cv2.boxFilter(plane, -1, _AROUND, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for plane in hot.view(np.uint8)
    ]
    alone: BoolArray = np.stack(counts) == 1
    return alone
