"""What the gate learns from triggers in which the detector found nothing new.

A threshold rises with each of them and sinks with time, so that it settles where they are as rare
as the budget wants. Learning from all that is seen would not do: a slow change would pass as noise.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.gate.cells import BoolArray
from framegate.models.gate.gate_settings import GateSettings
from framegate.models.gate.gate_state import AT_ONCE, HOT, GateState

FloatArray = npt.NDArray[np.float32]

_AROUND: Final = (3, 3)  # a tile and those beside it


def tiles_learned(state: GateState, empty: BoolArray, settings: GateSettings) -> FloatArray:
    """Each tile's own thresholds, float32 (2, tile_rows, tile_columns).

    empty  bool (2, tile_rows, tile_columns)  hot in luma or colour, looked at, nothing was found

    They sink by a tile's part of the budget: hardly in an hour.
    """
    least, most = (limit.reshape(2, 1, 1) for limit in settings.limits)
    sinks = -settings.eta * settings.false_triggers * state.looks / empty[0].size
    tau = np.where(empty, state.bound * np.exp(settings.eta), state.tau * np.exp(sinks))
    learned: FloatArray = np.clip(tau, least, most).astype(np.float32, copy=False)
    return learned


def picture_learned(
    state: GateState, empty: BoolArray, occupied: BoolArray | None, settings: GateSettings
) -> tuple[float, float]:
    """The floor under all thresholds: it follows noise that is everywhere, as at nightfall.

    empty     as for `tiles_learned`
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
    floor = np.clip(floor * np.exp(rises), *settings.limits)
    return float(floor[0]), float(floor[1])


def _alone(hot: BoolArray) -> BoolArray:
    """Of hot tiles those with no other beside them, in each plane."""
    counts = [
        cv2.boxFilter(plane, -1, _AROUND, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for plane in hot.view(np.uint8)
    ]
    alone: BoolArray = np.stack(counts) == 1
    return alone
