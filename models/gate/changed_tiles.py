"""Find the tiles that changed since the detector last saw them: the decision of the change gate.

A tile is compared with its content at its last *inference*, never with the previous frame, so a
slow change is detected as well. The gate has a stated bound, `sensitivity`: if the mean of a cell
changes by that many levels in Y, Cb or Cr, its tile is hot within two looks. Each tile learns its
threshold from false triggers (hot tiles in which the detector found nothing new); a budget for the
whole picture limits their rate.

`global_changes` recognises a moving camera and a changed exposure. `crops` chooses the parts of the
picture that the network looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, DoubleArray, FloatArray
from framegate.models.errors import ArrayMismatch
from framegate.models.gate.cells import (
    Cells,
    Grid,
    cells_of_tiles,
    grid_of,
    luma_of,
    tile_maxima,
)
from framegate.models.gate.global_changes import SAME, Exposure, distance, fit, watch
from framegate.models.gate.settings import DEFAULT, GateSettings
from framegate.models.gate.state import AT_ONCE, HOT, NEVER, GateState
from framegate.models.picture import ByteArray

_MAX_LOOKS: Final = np.uint8(250)  # counters of looks saturate here
_AVERAGED: Final = np.uint8(7)  # looks after an inference that refine the reference
_COMPENSATED: Final = 1.25  # levels of rounding error that exposure compensation adds


@dataclass(frozen=True, slots=True, eq=False)
class DetectedChange:
    """The result of one look at a frame.

    hot       bool (tile_rows, tile_columns)  tiles that the detector must look at
    moving    the camera moves or refocuses, so looking at parts saves little
    exposure  the exposure left its bound, so the whole picture needs one look
    state     the state for the next look
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
    """Compare a frame with the content at the last inference. Call it before an inference on it.

    state      None for the first frame and after a change of the picture size
    key_frame  the frame is a key frame, which may change the noise of the whole picture
    ignored    bool (tile_rows, tile_columns)  tiles that are never hot

    A tile that no network looked at is hot. Pure: equal input gives equal bits. Raises
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
    changed: BoolArray,
    settings: GateSettings = DEFAULT,
    occupied: BoolArray | None = None,
) -> GateState:
    """Return the state after an inference on these cells.

    state     from the look at the same frame
    looked    bool (tile_rows, tile_columns)  tiles that the detector saw
    changed   the same shape, tiles of those in which its boxes changed
    occupied  the same shape, tiles of known objects

    Raises ArrayMismatch.
    """
    tau = state.tau
    floor = state.floor
    if not _left_bound(state.exposure, settings):
        empty = (state.above >= HOT) & (looked & ~changed)
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

    A noise-free change of at least this much in Y, Cb or Cr, in addition to a change of exposure,
    makes its tile hot at the second look at the latest, regardless of key frames since the last
    inference. Exposure compensation adds its rounding error to the bound. A bound may rise between
    two looks; a change that is then below it waits for the maximum age.
    """
    bound: FloatArray = state.bound.max(0)
    if not state.exposure.same:
        bound = bound + np.float32(_COMPENSATED)
    return bound


class Limit(NamedTuple):
    """The detection limit for pictures of one size.

    The detector looks within two frames if the mean of a square of the grid changes by the
    threshold of its tile.

    square_px  side of such a square for Y in pixels; for Cb and Cr it is twice as long
    covers_px  an object that covers a square of this side covers a whole square of the grid for Y,
               at any position
    levels     smallest and largest possible threshold for Y
    colour     the same for Cb and Cr
    """

    square_px: int
    covers_px: int
    levels: tuple[float, float]
    colour: tuple[float, float]


def limit_of(width: int, height: int, settings: GateSettings = DEFAULT) -> Limit:
    """Return the detection limit for pictures of this size; `sensitivity` is the current bound.

    Raises ArrayMismatch for an empty picture.
    """
    cell = grid_of(width, height).cell
    lowest, highest = _learnable(settings)
    levels = float(lowest[0]), float(highest[0])
    colour = float(lowest[1]), float(highest[1])
    return Limit(cell, 2 * cell - 1, levels, colour)


def _learnable(settings: GateSettings) -> tuple[DoubleArray, DoubleArray]:
    """Return the lowest and highest threshold that can be learned, float64 (2,): luma, colour."""
    return settings.tau_least * np.array([1.0, settings.colour]), np.full(2, settings.tau_most)


def _first(cells: Cells, settings: GateSettings) -> GateState:
    tiles = cells.grid.tiles
    tau = np.empty((2, *tiles), np.float32)
    tau[0], tau[1] = _learnable(settings)[0]
    above = np.zeros((2, *tiles), np.uint8)
    age = np.full(tiles, NEVER, np.uint8)
    floor = settings.tau_first, settings.tau_first * settings.colour
    return GateState(cells.grid, cells.levels, cells.levels, tau, above, age, floor)


def _compared(
    state: GateState, cells: Cells, key_frame: bool, settings: GateSettings
) -> tuple[Exposure, ByteArray, ByteArray, ByteArray]:
    """Return the exposure, the new reference with its age, and the difference of each cell.

    On a key frame the reference moves before the comparison, otherwise after it.
    """
    now = cells.levels
    grid = cells.grid
    reference = state.reference
    age = state.age
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
    count = np.count_nonzero(fresh)
    if count:
        moving = None
        if count < fresh.size:
            moving = cells_of_tiles(fresh, grid)
        reference = _a_level_nearer(reference, expected, now, state.reach(settings.anchor), moving)
        age = age + fresh.view(np.uint8)
    return exposure, reference, age, apart


def _above(
    state: GateState, apart: ByteArray, settings: GateSettings
) -> tuple[BoolArray | None, ByteArray]:
    """Return the changed tiles, or None without a change, and the new value of `state.above`.

    apart  uint8 (grid.cells,)  difference of each cell in levels
    """
    levels = state.levels(settings)
    luma = state.grid.luma[0] * state.grid.luma[1]
    is_over = apart[:luma].max() >= levels.lowest[0] or apart[luma:].max() >= levels.lowest[1]
    was_over = np.count_nonzero(state.above)
    if not is_over and not was_over:  # most frames end here, after two comparisons
        return None, state.above
    change = tile_maxima(apart, state.grid)
    over: Any = change >= levels.over
    if not was_over and not np.count_nonzero(over):
        return None, state.above
    above: ByteArray = np.minimum(state.above, _MAX_LOOKS) + over
    above[change < levels.calm] = 0
    above[change >= levels.at_once] = AT_ONCE
    over &= levels.counts
    return np.logical_or(over[0], over[1]), above


def _left_bound(exposure: Exposure, settings: GateSettings) -> bool:
    gain = abs(exposure.gain - 1)
    return gain > settings.exposure_gain or abs(exposure.shift) > settings.exposure_shift


# -- The reference follows noise and key frames, but stays within a distance of its origin.


def _nearer(
    reference: ByteArray, expected: ByteArray, now: ByteArray, reach: tuple[ByteArray, ByteArray]
) -> ByteArray:
    """Return the reference, moved by the difference of `now` and `expected`, within `reach`.

    reference  uint8 (n,)  remembered cells
    expected   uint8 (n,)  the same cells at the current exposure
    now        uint8 (n,)  current cells
    reach      uint8 (n,) each, lowest and highest allowed value

    The reference stays near its origin, so no number of key frames or looks makes it drift away.
    """
    moved = np.empty_like(reference)
    cv2.add(reference, _above_by(now, expected), moved)  # saturates, and so does the next line
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
    """Move the reference as `_nearer` does, but by at most one level.

    moving  uint8 (n,)  1 in the cells that move; None: all move

    The reference converges to the median of its input (sigma-delta estimation, Manzanera and
    Richefeu 2004).
    """
    up = now > expected
    down = expected > now
    up &= reach[1] > reference
    down &= reference > reach[0]
    if moving is not None:
        up &= moving.view(np.bool_)
        down &= moving.view(np.bool_)
    moved: ByteArray = reference + up.view(np.uint8)
    moved -= down.view(np.uint8)
    return moved


def _above_by(more: ByteArray, less: ByteArray) -> ByteArray:
    """Return by how many levels `more` exceeds `less`, or 0."""
    out = np.empty_like(more)
    cv2.subtract(more, less, out)
    return out


# -- Learning from false triggers. A threshold rises with each of them and sinks with time, so it
# settles where their rate equals the budget. The gate does not learn from all frames, because a
# slow change would then pass as noise.


_AROUND: Final = (3, 3)  # a tile and its neighbours


def _tiles_learned(state: GateState, empty: BoolArray, settings: GateSettings) -> FloatArray:
    """Return the thresholds of each tile, float32 (2, tile_rows, tile_columns).

    empty  bool (2, tile_rows, tile_columns)  false triggers in luma and in colour

    Thresholds sink by the tile's share of the budget, which is hardly visible in an hour.
    """
    lowest, highest = (limit.reshape(2, 1, 1) for limit in _learnable(settings))
    sinks = -settings.eta * settings.false_triggers * state.looks / empty[0].size
    tau = np.where(empty, state.bound * np.exp(settings.eta), state.tau * np.exp(sinks))
    learned: FloatArray = np.minimum(np.maximum(tau, lowest), highest)
    return learned.astype(np.float32, copy=False)


def _picture_learned(
    state: GateState, empty: BoolArray, occupied: BoolArray | None, settings: GateSettings
) -> tuple[float, float]:
    """Return the floor of all thresholds, which follows noise of the whole picture (nightfall).

    empty     bool (2, tile_rows, tile_columns)  false triggers in luma and in colour
    occupied  bool (tile_rows, tile_columns)  tiles of known objects, which may move at any time

    A trigger counts as noise if the whole picture is noisy, or if the tile is hot without hot
    neighbours, is only little over its threshold, and has no threshold above the floor.
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
    lowest, highest = _learnable(settings)
    floor = np.minimum(np.maximum(floor * np.exp(rises), lowest), highest)
    return float(floor[0]), float(floor[1])


def _alone(hot: BoolArray) -> BoolArray:
    """Return the hot tiles without hot neighbours, in each plane."""
    counts = [
        cv2.boxFilter(plane, -1, _AROUND, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for plane in hot.view(np.uint8)
    ]
    alone: BoolArray = np.stack(counts) == 1
    return alone
