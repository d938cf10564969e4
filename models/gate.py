"""The change gate: which tiles of a picture differ from what the detector last saw there.

A tile is compared with its content at its last *inference*, never with the previous frame, so that
what changes slowly is seen as well. What is skipped has a stated bound, `sensitivity`: a change of
the mean of a cell by that many levels, in Y, Cb or Cr, makes its tile hot within two looks.
Thresholds are learned for each tile from triggers that the detector found empty, as few as a budget
for the whole picture allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.anchor import nearer
from models.cells import BoolArray, Cells, Grid, cells_of_tiles, tile_maxima
from models.exposure import Exposure, fit, tables
from models.gate_state import NEVER, GateState
from models.picture import ByteArray

_HOT: Final = 2  # looks above the threshold
_MOST: Final = np.uint8(250)  # where counters of looks stop
_AVERAGED: Final = 7  # looks after an inference that make the reference better


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Defaults were chosen by measurement on the three CC BY clips.

    tau_first, tau_least, tau_most  stated bound at first, and where learning stops: levels of a
                      cell mean; all 0: every tile is hot on every frame, as if there were no gate
    colour            the same for Cb and Cr, in parts of those for Y
    anchor            levels by which noise and key frames may move a reference in total, 0..7
    at_once           times the threshold: such a change is hot at its first look
    calm              times the threshold: below it a change is forgotten
    false_triggers    of the whole picture on each frame, which the thresholds settle at
    eta               how much a trigger that was found empty raises its threshold (exponent)
    exposure_shift    levels, and
    exposure_gain     parts: beyond one of them an exposure change asks for a whole pass
    moving_share      share of tiles that changed from which on the camera counts as moving,
    still_share       and up to which it counts as still again,
    moving_looks      after so many looks in a row, one way
    still_looks       and the other
    """

    tau_first: float = 8.0
    tau_least: float = 6.0
    tau_most: float = 18.0
    colour: float = 0.75
    anchor: int = 2
    at_once: float = 2.0
    calm: float = 0.6
    false_triggers: float = 0.02
    eta: float = 0.35
    exposure_shift: float = 8.0
    exposure_gain: float = 0.05
    moving_share: float = 0.4
    still_share: float = 0.2
    moving_looks: int = 3
    still_looks: int = 5


DEFAULT: Final = GateSettings()


@dataclass(frozen=True, slots=True, eq=False)
class Change:
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
) -> Change:
    """Compare a frame with what the detector last saw; before any inference on it.

    `state` is None at first and when the grid changed. `ignored` are tiles that never are hot.
    A tile that no network looked at is hot. Pure: the same bits from equal input. Raises
    ArrayMismatch.
    """
    if state is None or state.grid != grid:
        state = _first(cells, grid, settings)
    planes = cells.planes
    exposure = fit(state.reference[0], cells.luma)
    reference, age = state.reference, state.age
    expected = _expected(reference, exposure)
    if key_frame:
        reference = nearer(state.origin, reference, expected, planes, settings.anchor)
        expected = _expected(reference, exposure)
        age = np.where(age == NEVER, age, np.uint8(0))
    change = tile_maxima(np.maximum(expected, planes) - np.minimum(expected, planes), grid)
    over, above = _above(state, change, settings)
    if (fresh := age < _AVERAGED).any():
        step = cells_of_tiles(fresh, grid)
        reference = nearer(state.origin, reference, expected, planes, settings.anchor, step)
        age = age + fresh
    hot = (above >= _HOT).any(0) | (age == NEVER)
    if ignored is not None:
        hot &= ~ignored
        over &= ~ignored
    share = np.count_nonzero(over) / (hot.size if ignored is None else hot.size - ignored.sum())
    state = replace(
        state,
        reference=reference,
        above=above,
        age=age,
        looks=state.looks + 1,
        **_motion(state, share, settings),
    )
    return Change(hot, state.moving, _left_bound(exposure, settings), state)


def inferred(
    state: GateState,
    cells: Cells,
    looked: BoolArray,
    found: BoolArray,
    settings: GateSettings = DEFAULT,
) -> GateState:
    """The detector saw these cells in the tiles `looked`; in those of `found` its boxes changed.

    Both are bool (tile_rows, tile_columns). A hot tile in which nothing was found raises its
    threshold; time lowers all of them by as much as the budget of false triggers allows.
    """
    grid = state.grid
    false = (state.above >= _HOT) & (looked & ~found)
    budget = settings.false_triggers / looked.size
    rate = settings.eta * (false - np.float32(budget * state.looks))
    tau = _bounded(state.tau * np.exp(rate, dtype=np.float32), settings)
    if looked.all():
        origin = reference = cells.planes
    else:
        mask = cells_of_tiles(looked, grid).view(np.bool_)
        origin = np.where(mask, cells.planes, state.origin)
        reference = np.where(mask, cells.planes, state.reference)
    return replace(
        state,
        origin=origin,
        reference=reference,
        tau=tau,
        above=np.where(looked, np.uint8(0), state.above),
        age=np.where(looked, np.uint8(0), state.age),
        looks=0,
    )


def sensitivity(state: GateState) -> npt.NDArray[np.float32]:
    """The stated bound, float32 (tile_rows, tile_columns), in levels of a cell's mean.

    A noise-free change of at least this much in Y, Cb or Cr, after the exposure was compensated,
    is hot within two looks, whatever key frames came since the last inference.
    """
    largest: npt.NDArray[np.float32] = state.tau.max(0)
    return largest


def _first(cells: Cells, grid: Grid, settings: GateSettings) -> GateState:
    tau = np.empty((2, *grid.tiles), np.float32)
    tau[0], tau[1] = settings.tau_first, settings.tau_first * settings.colour
    return GateState(
        grid,
        cells.planes,
        cells.planes,
        tau,
        np.zeros((2, *grid.tiles), np.uint8),
        np.full(grid.tiles, NEVER, np.uint8),
    )


def _bounded(tau: npt.NDArray[np.float32], settings: GateSettings) -> npt.NDArray[np.float32]:
    factor = np.array([1, settings.colour], np.float32).reshape(2, 1, 1)
    clipped = np.clip(tau, settings.tau_least * factor, settings.tau_most * factor)
    return clipped.astype(np.float32, copy=False)


def _thresholds(state: GateState, settings: GateSettings) -> npt.NDArray[np.float32]:
    """What a change must reach so that the stated bound holds: less rounding and the anchor."""
    rounding = np.array([state.grid.rounding, state.grid.colour_rounding], np.float32)
    slack = rounding.reshape(2, 1, 1) + np.float32(settings.anchor)
    return np.maximum(state.tau - slack, np.float32(0))


def _left_bound(exposure: Exposure, settings: GateSettings) -> bool:
    gain = abs(exposure.gain - 1)
    return gain > settings.exposure_gain or abs(exposure.shift) > settings.exposure_shift


def _expected(reference: ByteArray, exposure: Exposure) -> ByteArray:
    if exposure.same:
        return reference
    luma, colour = tables(exposure)
    return np.concatenate([luma[reference[:1]], colour[reference[1:]]])


def _above(
    state: GateState, change: npt.NDArray[np.float32], settings: GateSettings
) -> tuple[BoolArray, ByteArray]:
    """Which tiles are over their threshold, and for how many looks each plane now was."""
    threshold = _thresholds(state, settings)
    over: Any = change >= threshold
    above: ByteArray = np.minimum(state.above, _MOST) + over
    above[change < settings.calm * threshold] = 0
    above[change >= settings.at_once * threshold] = _HOT
    over_any: BoolArray = over.any(0)
    return over_any, above


def _motion(state: GateState, share: float, settings: GateSettings) -> dict[str, Any]:
    """Whether the camera moves, by the share of tiles that changed."""
    restless = min(state.restless + 1, int(_MOST)) if share >= settings.moving_share else 0
    restful = min(state.restful + 1, int(_MOST)) if share <= settings.still_share else 0
    limit = settings.still_looks if state.moving else settings.moving_looks
    enough = (restful if state.moving else restless) >= limit
    return {"restless": restless, "restful": restful, "moving": state.moving != enough}
